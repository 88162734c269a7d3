"""The paths of Azure Resource Manager that are served, with what each needs: api-versions and a permission."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cloudmanager.testing.cloud.azure import errors
from cloudmanager.testing.cloud.azure.resource_id import ResourceId
from cloudmanager.testing.cloud.azure.state import Inventory

_COMPUTE_VERSIONS = ("2023-09-01", "2024-03-01", "2024-07-01", "2024-11-01", "2025-04-01", "2026-04-01")
_ATTACH_VERSIONS = _COMPUTE_VERSIONS[1:]
"""attachDetachDataDisks came with 2024-03-01."""
_DISK_VERSIONS = ("2023-10-02", "2024-03-02", "2025-01-02", "2026-03-02")
_GROUP_VERSIONS = ("2021-04-01", "2022-09-01", "2024-03-01", "2025-04-01")

_SUBSCRIPTION = r"/subscriptions/(?P<subscription>[^/]+)"
_GROUP = rf"{_SUBSCRIPTION}/resourceGroups/(?P<group>[^/]+)"
_COMPUTE = r"/providers/Microsoft\.Compute"
_REGION = rf"{_SUBSCRIPTION}{_COMPUTE}/locations/(?P<region>[^/]+)"


@dataclass(frozen=True)
class Route:
    """An operation, by its operationId in the REST specification."""

    operation: str
    method: str
    pattern: re.Pattern[str]
    action: str
    """The permission that it needs, without `Microsoft.Compute/`."""
    versions: tuple[str, ...]
    kind: str = ""
    """Collection of the resource that it is about."""

    @property
    def mutates(self) -> bool:
        return self.method != "GET"


@dataclass(frozen=True)
class Match:
    """A request's route, and the names in its path."""

    route: Route
    names: Mapping[str, str]

    @property
    def resource(self) -> ResourceId:
        return ResourceId(self.names["subscription"], self.names["group"], self.route.kind, self.names["name"])

    @property
    def scope(self) -> str:
        """What the permission is needed on."""
        if "name" in self.names and self.route.kind:
            return str(self.resource)
        group = f"/resourceGroups/{self.names['group']}" if "group" in self.names else ""
        return f"/subscriptions/{self.names['subscription']}{group}"


def find(method: str, path: str) -> Match | None:
    for route in _ROUTES:
        match = route.pattern.fullmatch(path.rstrip("/"))
        if match and route.method == method:
            return Match(route, match.groupdict())
    return None


def check_version(match: Match, query: Mapping[str, str], latest: str) -> str:
    """`latest`: newer ones are not known in this cloud; empty: all are. Raises ArmError."""
    known = tuple(each for each in match.route.versions if not latest or each <= latest)
    version = query.get("api-version")
    if not version:
        raise errors.no_api_version()
    if version not in known:
        raise errors.unknown_api_version(version, match.route.kind or "locations", known)
    return version


_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def check_scope(match: Match, inventory: Inventory) -> None:
    """The subscription and the resource group of the path. Raises ArmError."""
    subscription = match.names["subscription"]
    if not _GUID.fullmatch(subscription):
        raise errors.bad_subscription(subscription)
    if not inventory.has_subscription(subscription):
        raise errors.no_subscription(subscription)
    if "group" in match.names:
        inventory.group(subscription, match.names["group"])


def _route(
    operation: str, method: str, path: str, action: str, kind: str = "", versions: tuple[str, ...] = _COMPUTE_VERSIONS
) -> Route:
    return Route(operation, method, re.compile(path, re.IGNORECASE), action, versions, kind)


def _collection(owner: str, kind: str, versions: tuple[str, ...], whole: str) -> list[Route]:
    one = rf"{_GROUP}{_COMPUTE}/{kind}/(?P<name>[^/]+)"
    return [
        _route(f"{owner}_Get", "GET", one, f"{kind}/read", kind, versions),
        _route(
            f"{owner}_List" if whole == "ListAll" else f"{owner}_ListByResourceGroup",
            "GET",
            rf"{_GROUP}{_COMPUTE}/{kind}",
            f"{kind}/read",
            "",
            versions,
        ),
        _route(f"{owner}_{whole}", "GET", rf"{_SUBSCRIPTION}{_COMPUTE}/{kind}", f"{kind}/read", "", versions),
    ]


def _made(owner: str, kind: str) -> list[Route]:
    one = rf"{_GROUP}{_COMPUTE}/{kind}/(?P<name>[^/]+)"
    return [
        _route(f"{owner}_CreateOrUpdate", "PUT", one, f"{kind}/write", kind, _DISK_VERSIONS),
        _route(f"{owner}_Delete", "DELETE", one, f"{kind}/delete", kind, _DISK_VERSIONS),
    ]


_MACHINE = rf"{_GROUP}{_COMPUTE}/virtualMachines/(?P<name>[^/]+)"

_ROUTES = (
    *_collection("VirtualMachines", "virtualMachines", _COMPUTE_VERSIONS, "ListAll"),
    _route(
        "VirtualMachines_AttachDetachDataDisks",
        "POST",
        rf"{_MACHINE}/attachDetachDataDisks",
        "virtualMachines/attachDetachDataDisks/action",
        "virtualMachines",
        _ATTACH_VERSIONS,
    ),
    _route(
        "VirtualMachines_ListAvailableSizes",
        "GET",
        rf"{_MACHINE}/vmSizes",
        "virtualMachines/vmSizes/read",
        "virtualMachines",
    ),
    _route("VirtualMachineSizes_List", "GET", rf"{_REGION}/vmSizes", "locations/vmSizes/read"),
    *_collection("Disks", "disks", _DISK_VERSIONS, "List"),
    *_made("Disks", "disks"),
    _route(
        "Disks_GrantAccess",
        "POST",
        rf"{_GROUP}{_COMPUTE}/disks/(?P<name>[^/]+)/beginGetAccess",
        "disks/beginGetAccess/action",
        "disks",
        _DISK_VERSIONS,
    ),
    _route(
        "Disks_RevokeAccess",
        "POST",
        rf"{_GROUP}{_COMPUTE}/disks/(?P<name>[^/]+)/endGetAccess",
        "disks/endGetAccess/action",
        "disks",
        _DISK_VERSIONS,
    ),
    *_collection("Snapshots", "snapshots", _DISK_VERSIONS, "List"),
    *_made("Snapshots", "snapshots"),
    _route("Operations_Get", "GET", rf"{_REGION}/operations/(?P<name>[^/]+)", "locations/operations/read"),
    _route(
        "DiskOperations_Get",
        "GET",
        rf"{_REGION}/DiskOperations/(?P<name>[^/]+)",
        "locations/diskOperations/read",
        "",
        _DISK_VERSIONS,
    ),
    _route("ResourceGroups_List", "GET", rf"{_SUBSCRIPTION}/resourceGroups", "", "", _GROUP_VERSIONS),
    _route("ResourceGroups_Get", "GET", _GROUP, "", "", _GROUP_VERSIONS),
)
