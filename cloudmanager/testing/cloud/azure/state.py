"""What an emulated Azure knows: plain records, copied for stale reads."""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from cloudmanager.testing.cloud.azure import errors
from cloudmanager.testing.cloud.azure.resource_id import ResourceId

GIB = 1024**3


class Controller(StrEnum):
    """How a machine's disks are connected."""

    SCSI = "SCSI"
    NVME = "NVMe"


@dataclass(frozen=True)
class Place:
    """A region, and one of its zones or none."""

    region: str
    zone: str = ""

    @classmethod
    def parse(cls, text: str) -> "Place":
        """`"westeurope-1"`, or `"westeurope"` for no zone."""
        region, _, zone = text.partition("-")
        return cls(region.casefold(), zone)

    @property
    def zones(self) -> dict[str, list[str]]:
        return {"zones": [self.zone]} if self.zone else {}


@dataclass
class DataDisk:
    """An entry of a machine's model. It is there from the request on; the disk's owner is set when that has ended."""

    disk: ResourceId
    lun: int
    caching: str = "None"
    delete_option: str = "Detach"
    to_be_detached: bool = False


@dataclass
class Machine:
    id: ResourceId
    place: Place
    size: str
    controller: Controller = Controller.SCSI
    data_disks: list[DataDisk] = field(default_factory=list)
    provisioning_state: str = "Succeeded"
    is_busy: bool = False
    """An operation on its disks runs."""
    is_running: bool = True
    """Else it is deallocated."""
    version: int = 1
    vm_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    tags: dict[str, str] = field(default_factory=dict)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    os_disk: ResourceId | None = None
    """None: it has none that is a resource of its own."""

    @property
    def etag(self) -> str:
        return f'"{self.version}"'

    def entry(self, disk: ResourceId) -> DataDisk | None:
        return next((entry for entry in self.data_disks if entry.disk.key == disk.key), None)

    def at(self, lun: int) -> DataDisk | None:
        return next((entry for entry in self.data_disks if entry.lun == lun), None)


_LARGE_SECTORS = frozenset({"UltraSSD_LRS", "PremiumV2_LRS"})
"""The kinds of disks that may have sectors of 512 or 4096 bytes; 4096 unless 512 is asked for."""


@dataclass
class ManagedDisk:
    id: ResourceId
    place: Place
    size_bytes: int
    sku: str = "Premium_LRS"
    max_shares: int = 1
    tags: dict[str, str] = field(default_factory=dict)
    owners: list[ResourceId] = field(default_factory=list)
    creation_data: dict[str, object] = field(default_factory=lambda: {"createOption": "Empty"})
    provisioning_state: str = "Succeeded"
    file: Path = Path()
    access_token: str = ""
    """Of the link that `beginGetAccess` gave out; empty: none."""
    version: int = 1
    unique_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    owned_since: datetime | None = None
    """When it was last attached or detached."""
    os_type: str = ""
    """`Linux`, of a disk with an operating system."""

    def __post_init__(self) -> None:
        if self.sku in _LARGE_SECTORS:
            self.creation_data = {"logicalSectorSize": 4096, **self.creation_data}

    @property
    def sector_bytes(self) -> int:
        """Logical ones."""
        return int(str(self.creation_data.get("logicalSectorSize", 512)))

    @property
    def is_zone_redundant(self) -> bool:
        return self.sku.endswith("_ZRS")

    @property
    def state(self) -> str:
        if self.access_token:
            return "ActiveSAS"
        return "Attached" if self.owners else "Unattached"


@dataclass
class Snapshot:
    id: ResourceId
    place: Place
    size_bytes: int
    creation_data: dict[str, object]
    is_incremental: bool
    tags: dict[str, str] = field(default_factory=dict)
    completion_percent: float = 0.0
    provisioning_state: str = "Succeeded"
    file: Path = Path()
    unique_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class Group:
    """A resource group."""

    name: str
    location: str


Record = TypeVar("Record", Machine, ManagedDisk, Snapshot)


@dataclass
class Inventory:
    """Everything, by the case-insensitive keys of Azure."""

    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    """By subscription and name."""
    machines: dict[str, Machine] = field(default_factory=dict)
    disks: dict[str, ManagedDisk] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)

    def add_group(self, subscription: str, name: str, location: str) -> Group:
        return self.groups.setdefault((subscription.casefold(), name.casefold()), Group(name, location))

    def has_subscription(self, subscription: str) -> bool:
        return any(known == subscription.casefold() for known, _ in self.groups)

    def group(self, subscription: str, name: str) -> Group:
        """Raises ArmError."""
        try:
            return self.groups[subscription.casefold(), name.casefold()]
        except KeyError:
            raise errors.no_group(name) from None

    def groups_of(self, subscription: str) -> list[Group]:
        return [group for (owner, _), group in sorted(self.groups.items()) if owner == subscription.casefold()]

    def machine(self, id: ResourceId) -> Machine:
        return self._get(self.machines, id)

    def disk(self, id: ResourceId) -> ManagedDisk:
        return self._get(self.disks, id)

    def snapshot(self, id: ResourceId) -> Snapshot:
        return self._get(self.snapshots, id)

    def _get(self, records: dict[str, Record], id: ResourceId) -> Record:
        self.group(id.subscription, id.group)
        try:
            return records[id.key]
        except KeyError:
            raise errors.no_resource(id) from None


def within(records: Iterable[Record], subscription: str, group: str | None) -> Iterator[Record]:
    """Those of a subscription, or of one of its resource groups, in the order of their names."""
    for record in sorted(records, key=lambda record: record.id.key):
        if record.id.subscription.casefold() != subscription.casefold():
            continue
        if group is None or record.id.group.casefold() == group.casefold():
            yield record
