"""What Azure says of machines, disks and snapshots, as far as it matters here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cloudmanager.core.incarnation import refuse_replaced
from cloudmanager.core.model import Disk
from cloudmanager.providers.azure.resource_id import ResourceId

_LARGE_SECTORS = frozenset({"ultrassd_lrs", "premiumv2_lrs"})
_SETTLED = frozenset({"succeeded", "failed", "canceled"})


@dataclass(frozen=True)
class Place:
    """A region, and one of its zones or none."""

    region: str
    zone: str = ""

    @classmethod
    def parse(cls, text: str) -> "Place":
        """`"westeurope-1"` or `"westeurope"`."""
        region, _, zone = text.partition("-")
        return cls(region, zone)

    def excludes(self, other: "Place") -> bool:
        """A disk there cannot be attached to a machine here, or the reverse, for certain."""
        if self.region.casefold() != other.region.casefold():
            return True
        return bool(self.zone and other.zone) and self.zone != other.zone

    def __str__(self) -> str:
        return f"{self.region}-{self.zone}" if self.zone else self.region


@dataclass(frozen=True)
class DataDisk:
    """An entry of a machine's model. It appears when an attach begins, and goes when a detach has ended."""

    disk: ResourceId
    lun: int
    is_leaving: bool = False
    """Marked `toBeDetached`: a detach runs, or has failed."""


@dataclass(frozen=True)
class MachineFacts:
    id: ResourceId
    place: Place
    size: str
    provisioning_state: str
    data_disks: tuple[DataDisk, ...]
    seen_at: datetime | None = None
    """When Azure said so, by its own clock, to the second."""
    os_disk: ResourceId | None = None
    """None of an unmanaged or an ephemeral one."""

    @property
    def is_settled(self) -> bool:
        """No operation on the machine runs."""
        return self.provisioning_state.casefold() in _SETTLED

    @property
    def has_failed(self) -> bool:
        """The last operation did: the model may say more than is true."""
        return self.is_settled and self.provisioning_state.casefold() != "succeeded"

    def entry(self, disk: ResourceId) -> DataDisk | None:
        return next((entry for entry in self.data_disks if entry.disk.key == disk.key), None)

    def at(self, lun: int) -> DataDisk | None:
        return next((entry for entry in self.data_disks if entry.lun == lun), None)


@dataclass(frozen=True)
class DiskFacts:
    id: ResourceId
    place: Place
    size_bytes: int
    sku: str
    state: str
    owners: tuple[ResourceId, ...] = ()
    max_shares: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)
    source: ResourceId | None = None
    created_at: datetime | None = None
    owned_since: datetime | None = None
    """When it was last attached or detached, or its machine deallocated or started."""
    said_sector_bytes: int | None = None
    """What Azure says; it says nothing of most disks."""
    has_system: bool = False
    """An operating system was installed on it: `osType` is set."""
    unique_id: str = ""
    """What Azure gives to a disk when it is made, and never again."""

    @property
    def logical_sector_bytes(self) -> int:
        """Ultra disks and Premium SSD v2 have 4096 unless 512 was asked for, the others 512.

        https://learn.microsoft.com/rest/api/compute/disks/get (CreationData.logicalSectorSize)
        """
        return self.said_sector_bytes or (4096 if self.sku.casefold() in _LARGE_SECTORS else 512)

    def refuse_other(self, claimed: Disk) -> None:
        """Raises DiskReplaced when what has the name now is not the disk that was claimed."""
        refuse_replaced(claimed, self.unique_id, self.created_at)

    def others(self, machine: ResourceId) -> tuple[ResourceId, ...]:
        """The machines that have it, without this one."""
        return tuple(owner for owner in self.owners if owner.key != machine.key)

    def is_owned_by(self, machine: ResourceId) -> bool:
        return any(owner.key == machine.key for owner in self.owners)


@dataclass(frozen=True)
class Outcome:
    """Of an operation that has ended."""

    is_success: bool
    started: datetime
    ended: datetime


@dataclass(frozen=True)
class SnapshotFacts:
    id: ResourceId
    place: Place
    size_bytes: int
    is_complete: bool
    tags: Mapping[str, str] = field(default_factory=dict)
    source: ResourceId | None = None
    source_unique_id: str = ""
