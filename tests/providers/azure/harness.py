"""What the conformance suite needs of Azure."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cloudmanager.core.errors import (
    AccessDenied,
    AttachLimit,
    CloudError,
    CloudManagerError,
    CloudUnavailable,
    DiskInUse,
    DiskNotFound,
    NameClash,
    Throttled,
    WrongZone,
)
from cloudmanager.providers import azure
from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.emulation import ATTACH, GROUP
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.conformance.emulated import NEIGHBOUR, NODE, EmulatorHarness
from cloudmanager.testing.conformance.harness import ErrorCase
from tests.providers.azure.clients import disk_path
from tests.providers.azure.test_provider_ids import MALFORMED

SIZE = "Standard_D2s_v5"
MACHINE = f"/subscriptions/s/resourceGroups/{GROUP}/providers/Microsoft.Compute/virtualMachines/{NEIGHBOUR}"
NO_IDENTITY = "a disk has no identity in the guest but its LUN, which is where it is and cannot be missing or another's"
Arrange = Callable[["AzureHarness", str], None]


class AzureHarness(EmulatorHarness):
    cloud: AzureEmulation
    emulation = AzureEmulation
    plugin = azure
    attach_operation = f"{ATTACH}/attach"
    detach_operation = f"{ATTACH}/detach"
    reads = ("VirtualMachines_Get", "Disks_Get")
    denial = Fault("*", Effect.ERROR, code="AuthorizationFailed", status=403)
    free_slots = 4
    locations = ("westeurope-2", "northeurope-1")
    malformed_ids = MALFORMED
    supports_sharing = True
    capabilities = frozenset({"snapshot", "restore", "delete"})
    error_cases: ClassVar[Sequence[ErrorCase]] = ()
    does_not_apply: ClassVar[Mapping[str, str]] = {
        "test_attached_in_another_mode_is_a_conflict": "Azure has one mode: every disk is attached read-write",
        "test_a_device_that_does_not_say_who_it_is_is_not_used": NO_IDENTITY,
        "test_a_device_that_says_it_is_another_is_not_used": NO_IDENTITY,
    }

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._by_hand: list[str] = []

    @property
    def secrets(self) -> Sequence[str]:
        return self.cloud.accounts.tokens

    def make_disk(self, name: str = "", *, location: str = "", is_shared: bool = False) -> str:
        """Names are unique in a resource group, whatever the region: each location has a group here."""
        name = name or f"evidence-{next(self._numbers)}"
        return super().make_disk(f"RG-{location}/{name}" if location else name, location=location, is_shared=is_shared)

    def start_machines(self) -> None:
        self.cloud.make_instance(NODE, size=SIZE)
        self.cloud.make_instance(NEIGHBOUR)

    def attach_by_hand(self, disk: str, *, slot: str = "") -> None:
        """The console proposes the lowest LUN that is free, which is the one that a plan has chosen."""
        taken = {self.cloud.lun(name, NODE) for name in self._by_hand}
        self._by_hand.append(disk)
        super().attach_by_hand(disk, slot=slot or str(next(lun for lun in range(63, 0, -1) if lun not in taken)))

    def native_id(self, disk: str) -> str:
        group, name = disk.split("/")[4], disk.split("/")[8]
        return f"{group.casefold()}/{name}"

    def missing_disk(self) -> str:
        return f"{GROUP}/nothing"

    def spellings(self, disk: str) -> Sequence[str]:
        group, _, name = disk.partition("/")
        full = disk_path(name, group)
        return [name, disk.upper(), full, full.upper(), f"https://management.azure.com{full}"]


def refuses(operation: str, code: str, message: str = "", status: int = 0) -> Arrange:
    def arrange(harness: AzureHarness, _: str) -> None:
        fault = Fault(operation, Effect.ERROR, times=0, code=code, message=message, status=status)
        harness.cloud.faults.add(fault)

    return arrange


def throttles(operation: str, form: str) -> Arrange:
    def arrange(harness: AzureHarness, _: str) -> None:
        harness.cloud.faults.add(Fault(operation, Effect.THROTTLE, times=0, form=form, retry_after=31))

    return arrange


def fails_later(operation: str, code: str, message: str = "") -> Arrange:
    """The operation is accepted, and ends with an error in a document that is answered with status 200."""

    def arrange(harness: AzureHarness, _: str) -> None:
        harness.cloud.faults.add(Fault(operation, Effect.FAIL, times=0, code=code, message=message))

    return arrange


def case(
    name: str, hook: str, arrange: Arrange, error: type[CloudManagerError], code: str, retry_after: float | None = None
) -> ErrorCase:
    return ErrorCase(name, hook, arrange, error, error.retriable, code, retry_after)


ON_ATTACH = f"{ATTACH}/attach"
ON_DETACH = f"{ATTACH}/detach"
TEXT = "The maximum number of data disks allowed to be attached to a VM of this size is 4."
ZONE = "Disk d cannot be attached to the VM because it is not in the same zone as the VM. VM zone: '1'. Disk zone: '2'."
OWNED = f"Disk 'd' cannot be attached as the disk is already owned by VM '{MACHINE}'."

AzureHarness.error_cases = (
    case(
        "a disk that is not there",
        "describe",
        refuses("Disks_Get", "ResourceNotFound"),
        DiskNotFound,
        "ResourceNotFound",
    ),
    case(
        "a resource group that is not there",
        "describe",
        refuses("Disks_Get", "ResourceGroupNotFound", status=404),
        DiskNotFound,
        "ResourceGroupNotFound",
    ),
    case(
        "no permission to read",
        "describe",
        refuses("Disks_Get", "AuthorizationFailed"),
        AccessDenied,
        "AuthorizationFailed",
    ),
    case(
        "a token that is not valid",
        "describe",
        refuses("Disks_Get", "InvalidAuthenticationToken", status=401),
        AccessDenied,
        "InvalidAuthenticationToken",
    ),
    case("throttled reads", "describe", throttles("Disks_Get", ""), Throttled, "TooManyRequests", 31),
    case(
        "a throttled subscription",
        "describe",
        throttles("Disks_Get", "subscription"),
        Throttled,
        "SubscriptionRequestsThrottled",
        31,
    ),
    case(
        "an internal error",
        "describe",
        refuses("Disks_Get", "InternalServerError"),
        CloudUnavailable,
        "InternalServerError",
    ),
    case("throttled changes", "attach", throttles(ON_ATTACH, ""), Throttled, "TooManyRequests", 31),
    case(
        "throttled inside the operation",
        "attach",
        fails_later(ON_ATTACH, "TooManyRequests"),
        Throttled,
        "TooManyRequests",
    ),
    case(
        "no permission to attach",
        "attach",
        refuses(ON_ATTACH, "AuthorizationFailed"),
        AccessDenied,
        "AuthorizationFailed",
    ),
    case(
        "no permission on the disk",
        "attach",
        refuses(ON_ATTACH, "LinkedAuthorizationFailed"),
        AccessDenied,
        "LinkedAuthorizationFailed",
    ),
    ErrorCase(
        "as many disks as the size takes",
        "attach",
        refuses(ON_ATTACH, "OperationNotAllowed", TEXT, 409),
        AttachLimit,
        retriable=True,
        cloud_code="OperationNotAllowed",
    ),
    case("another zone", "attach", refuses(ON_ATTACH, "BadRequest", ZONE, 400), WrongZone, "BadRequest"),
    case(
        "owned, as is found out later",
        "attach",
        fails_later(ON_ATTACH, "ConflictingUserInput", OWNED),
        DiskInUse,
        "ConflictingUserInput",
    ),
    case(
        "a disk that is gone",
        "attach",
        refuses(ON_ATTACH, "NotFound", "Disk d is not found."),
        DiskNotFound,
        "NotFound",
    ),
    case(
        "a taken LUN",
        "attach",
        refuses(ON_ATTACH, "InvalidParameter", "A disk at LUN 63 already exists."),
        NameClash,
        "InvalidParameter",
    ),
    *(
        case(f"{code}, at once", "attach", refuses(ON_ATTACH, code, status=409), CloudUnavailable, code)
        for code in ("AttachDiskWhileBeingDetached", "Conflict", "OperationPreempted")
    ),
    *(
        case(f"{code}, later", "attach", fails_later(ON_ATTACH, code), CloudUnavailable, code)
        for code in ("AttachDiskWhileBeingDetached", "OperationPreempted", "InternalExecutionError")
    ),
    case(
        "an error that nobody has seen before",
        "attach",
        fails_later(ON_ATTACH, "SomethingNew", "It did not work."),
        CloudError,
        "SomethingNew",
    ),
    case("throttled detaches", "detach", throttles(ON_DETACH, ""), Throttled, "TooManyRequests", 31),
    case(
        "a detach that is preempted",
        "detach",
        fails_later(ON_DETACH, "OperationPreempted"),
        CloudUnavailable,
        "OperationPreempted",
    ),
    case(
        "no permission to detach",
        "detach",
        refuses(ON_DETACH, "AuthorizationFailed"),
        AccessDenied,
        "AuthorizationFailed",
    ),
)
