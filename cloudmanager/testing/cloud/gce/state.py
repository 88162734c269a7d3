"""What the emulated Compute Engine knows. Plain data: it is copied for stale reads."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

UNIVERSE = "emulated.test"
"""The emulated cloud is a universe of its own: where credentials of googleapis.com may be used, the SDK asks Google
itself, in the background."""
HOST = f"https://www.{UNIVERSE}/compute/v1/"
"""What the API's own links begin with, whichever endpoint was asked."""


class Mode(StrEnum):
    READ_ONLY = "READ_ONLY"
    READ_WRITE = "READ_WRITE"


class Status(StrEnum):
    """Of an operation."""

    RUNNING = "RUNNING"
    DONE = "DONE"


@dataclass
class Disk:
    """`scope` is `zones/Z` or `regions/R`."""

    project: str
    scope: str
    name: str
    id: int
    size_gb: int
    type: str = "pd-balanced"
    labels: dict[str, str] = field(default_factory=dict)
    status: str = "READY"
    access_mode: str = "READ_WRITE_SINGLE"
    replica_zones: tuple[str, ...] = ()
    description: str = ""
    source_snapshot: str = ""
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def path(self) -> str:
        """`projects/P/zones/Z/disks/D`: the key of everything that refers to the disk."""
        return f"projects/{self.project}/{self.scope}/disks/{self.name}"

    @property
    def is_regional(self) -> bool:
        return self.scope.startswith("regions/")

    @property
    def size_bytes(self) -> int:
        return self.size_gb * 1024**3


@dataclass
class AttachedDisk:
    """One entry of an instance's `disks`."""

    source: str
    """Path of the disk."""
    device_name: str
    mode: Mode
    index: int
    boot: bool = False


@dataclass
class Instance:
    project: str
    zone: str
    name: str
    id: int
    machine_type: str
    disks: list[AttachedDisk] = field(default_factory=list)
    status: str = "RUNNING"

    @property
    def path(self) -> str:
        return f"projects/{self.project}/zones/{self.zone}/instances/{self.name}"

    @property
    def interface(self) -> str:
        """`NVME` on the newer families, which have no SCSI controller."""
        return "NVME" if self.machine_type.split("-")[0] in _NVME_FAMILIES else "SCSI"

    def attached(self, source: str) -> AttachedDisk | None:
        return next((disk for disk in self.disks if disk.source == source), None)

    def named(self, device_name: str) -> AttachedDisk | None:
        return next((disk for disk in self.disks if disk.device_name == device_name), None)


_NVME_FAMILIES = frozenset({"a3", "c3", "c3d", "c4", "c4a", "h3", "m3", "n4", "x4", "z3"})
_SHARED_CORE = frozenset({"e2-micro", "e2-small", "e2-medium", "f1-micro", "g1-small"})


def disk_limit(machine_type: str) -> int:
    """Disks with the boot disk."""
    return 16 if machine_type in _SHARED_CORE else 128


@dataclass
class Snapshot:
    project: str
    name: str
    id: int
    source: str
    source_id: int
    size_gb: int
    labels: dict[str, str] = field(default_factory=dict)
    status: str = "CREATING"
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def path(self) -> str:
        return f"projects/{self.project}/global/snapshots/{self.name}"


@dataclass(frozen=True)
class OperationError:
    code: str
    message: str


@dataclass
class Operation:
    """`scope` is `zones/Z`, `regions/R` or `global`."""

    project: str
    scope: str
    name: str
    id: int
    type: str
    target: str
    target_id: int
    disk: str = ""
    """Path of the disk that it is about, as long as it runs."""
    status: Status = Status.RUNNING
    error: OperationError | None = None
    http_status: int = 0
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at: datetime | None = None
    request_id: str = ""
    """The `requestId` of the request, if it had one."""

    @property
    def path(self) -> str:
        return f"projects/{self.project}/{self.scope}/operations/{self.name}"


@dataclass
class Cloud:
    """Everything, by path."""

    projects: dict[str, int] = field(default_factory=dict)
    """Project id → number."""
    zones: tuple[str, ...] = ()
    disks: dict[str, Disk] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    requests: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Request id → what was asked for, and the operation that it started."""
    last_id: int = 7_000_000_000_000_000_000

    def new_id(self) -> int:
        self.last_id += 1
        return self.last_id

    @property
    def regions(self) -> tuple[str, ...]:
        return tuple(sorted({zone.rpartition("-")[0] for zone in self.zones}))

    def users(self) -> dict[str, list[str]]:
        """Path of a disk → paths of the instances that have it."""
        users: dict[str, list[str]] = {}
        for instance in self.instances.values():
            for attached in instance.disks:
                users.setdefault(attached.source, []).append(instance.path)
        return users

    def holders(self, disk: str) -> Iterator[tuple[Instance, AttachedDisk]]:
        for instance in self.instances.values():
            if attached := instance.attached(disk):
                yield instance, attached

    def running(self, disk: str) -> Iterator[Operation]:
        """Operations about a disk that have not ended."""
        return (op for op in self.operations.values() if op.disk == disk and op.status is not Status.DONE)


_HOSTS = re.compile(rf"https://(www|compute)\.({re.escape(UNIVERSE)}|googleapis\.com)/compute/(v1|beta)/")


def path_of(text: str, project: str) -> str | None:
    """`projects/P/…` as the state keys it; None for what is no link to a resource."""
    rest = _HOSTS.sub("", text, count=1)
    if re.fullmatch(r"(zones|regions)/[^/]+/[a-zA-Z]+/[^/]+|global/[a-zA-Z]+/[^/]+", rest):
        rest = f"projects/{project}/{rest}"
    return rest if re.fullmatch(r"projects/[^/]+/((zones|regions)/[^/]+|global)/[a-zA-Z]+/[^/]+", rest) else None
