"""Resource ids, in which letter case never matters, and the shorter names of disks."""

import re
from dataclasses import dataclass
from typing import Self

from cloudmanager.core.errors import InvalidDiskId

DISKS = "disks"
MACHINES = "virtualMachines"
SNAPSHOTS = "snapshots"

_CANONICAL = "azure:/"
_FULL = re.compile(
    r"(?:https://[^/]+)?/?subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.Compute/(?P<kind>[^/]+)/(?P<name>[^/]+)",
    re.IGNORECASE,
)
_SUBSCRIPTION = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_GROUP = re.compile(r"[\w.()-]{0,89}[\w()-]")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?")
"""Azure's naming rules for resource groups, and for disks and snapshots."""


@dataclass(frozen=True)
class ResourceId:
    """A resource of Microsoft.Compute: a disk, a snapshot or a virtual machine."""

    subscription: str
    group: str
    kind: str
    name: str

    @classmethod
    def of(cls, text: str) -> Self | None:
        """A full id, as a link too; None for anything else."""
        match = _FULL.fullmatch(text)
        return cls(**match.groupdict()) if match else None

    @classmethod
    def of_canonical(cls, text: str) -> Self | None:
        """The reverse of `canonical`, in small letters."""
        return cls.of(text.removeprefix(_CANONICAL))

    @property
    def key(self) -> str:
        """The same for every spelling."""
        return str(self).casefold()

    @property
    def canonical(self) -> str:
        """Names the resource world-wide."""
        return f"{_CANONICAL}{self.key}"

    @property
    def short(self) -> str:
        """`group/name`. Azure answers with the group in any letter case."""
        return f"{self.group.casefold()}/{self.name}"

    def __str__(self) -> str:
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
            f"/providers/Microsoft.Compute/{self.kind}/{self.name}"
        )


@dataclass(frozen=True)
class Spelling:
    """A disk or a snapshot as people write it: what is left out is empty."""

    subscription: str
    group: str
    kind: str
    name: str

    @classmethod
    def parse(cls, native: str, kind: str) -> Self:
        """`name`, `group/name`, a full id in any letter case, or a link that ends with one. Raises InvalidDiskId."""
        full = ResourceId.of(native)
        group, slash, name = native.rpartition("/")
        found = cls(full.subscription, full.group, full.kind, full.name) if full else cls("", group, kind, name)
        has_group = bool(full or slash)
        if found.kind.casefold() != kind.casefold() or not found._is_well_formed(full is not None, has_group):
            raise InvalidDiskId(
                f"{_shortened(native)} is not the id of one of Azure's {kind}: write its name, group/name, or its full "
                f"resource id (/subscriptions/…/resourceGroups/…/providers/Microsoft.Compute/{kind}/…)."
            )
        return found

    @property
    def is_bare(self) -> bool:
        """A name alone: which resource group it is in is not said."""
        return not self.group

    def resolve(self, subscription: str, group: str) -> ResourceId:
        """`group` is that of names without one. Raises InvalidDiskId when it is in another subscription."""
        if self.subscription and self.subscription.casefold() != subscription.casefold():
            raise InvalidDiskId(
                f"{self.name} is in subscription {self.subscription}, and this machine in {subscription}: Azure "
                "attaches no disks across subscriptions."
            )
        return ResourceId(subscription, self.group or group, self.kind, self.name)

    def _is_well_formed(self, has_subscription: bool, has_group: bool) -> bool:
        return (
            bool(_NAME.fullmatch(self.name))
            and (not has_group or bool(_GROUP.fullmatch(self.group)))
            and (not has_subscription or bool(_SUBSCRIPTION.fullmatch(self.subscription)))
        )


def is_well_formed(id: ResourceId) -> bool:
    """By Azure's naming rules, so that nothing else gets into a path of its API."""
    return bool(_SUBSCRIPTION.fullmatch(id.subscription) and _GROUP.fullmatch(id.group) and _NAME.fullmatch(id.name))


def _shortened(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")
