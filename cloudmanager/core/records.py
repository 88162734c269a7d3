"""What the store keeps of exports, attachments, nodes and events, as frozen data."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cloudmanager.core.model import (
    Access,
    AttachmentState,
    AttachPlan,
    Disk,
    ExportState,
    NodeState,
    Problem,
)


@dataclass(frozen=True)
class ServerProcess:
    """A running qemu-nbd, as the store keeps it: enough to recognise it after a restart of the daemon."""

    boot_id: str
    pid: int
    """qemu-nbd's own, never the sandbox's."""
    start_time: int
    """Clock ticks since boot: field 22 of /proc/PID/stat."""
    listener_inode: int


_NAME_BYTES = 16


def new_export_name() -> str:
    """An unguessable NBD export name: 128 random bits."""
    return secrets.token_hex(_NAME_BYTES)


@dataclass(frozen=True)
class ExportRecord:
    """An export and how it is served. The `…_boottime` fields are seconds of the boot clock of `boot_id`."""

    id: str
    node: str
    disk: Disk
    access: Access
    holder: str
    note: str
    state: ExportState
    name: str
    created_at: datetime
    expires_at: datetime
    boot_id: str
    expires_boottime: float
    unready_boottime: float
    """Since when it has been waiting to become ready."""
    closing_boottime: float | None = None
    port: int | None = None
    size_bytes: int | None = None
    format: str | None = None
    server: ServerProcess | None = None
    error: Problem | None = None
    is_forced: bool = False
    """An operator has cut its clients off: it is closing without a grace period."""

    @property
    def claims(self) -> dict[str, bool]:
        """The disks that it claims, by canonical id, and whether exclusively: backing disks are only read."""
        return {**dict.fromkeys(self.disk.backing, False), self.disk.canonical_id: self.access.writes_disk}


@dataclass(frozen=True)
class Start:
    """A server that is about to be started."""

    export_id: str
    port: int
    """That it will listen on."""
    unready_boottime: float


@dataclass(frozen=True)
class AttachmentRecord:
    """An attachment of this or another node, from its plan on."""

    node: str
    plan: AttachPlan
    state: AttachmentState
    since: datetime
    error: Problem | None = None
    boot_id: str | None = None
    idle_boottime: float | None = None
    """When its last export ended, by the boot clock of `boot_id`; None while there are exports."""

    @property
    def is_ours(self) -> bool:
        """We attached it, so we may detach it."""
        return self.state is not AttachmentState.FOREIGN


@dataclass(frozen=True)
class MaintenanceAction:
    """A maintenance action: since when it holds, and who did it and why, if given."""

    since: datetime
    by: str = ""
    reason: str = ""

    def __str__(self) -> str:
        details = [f" by {self.by}" if self.by else "", f": {self.reason}" if self.reason else ""]
        return f"since {self.since.isoformat(timespec='seconds')}{''.join(details)}"


@dataclass(frozen=True)
class NodeRecord:
    name: str
    boot_id: str
    started_at: datetime
    seen_at: datetime
    drain: MaintenanceAction | None = None
    """Since then it takes no new exports."""
    exports: int = 0
    """Those that are not over."""
    attachments: int = 0

    @property
    def state(self) -> NodeState:
        if self.drain is None:
            return NodeState.ACTIVE
        return NodeState.DRAINING if self.exports or self.attachments else NodeState.DRAINED


@dataclass(frozen=True)
class NodeHolder:
    """The live service that has a node's name."""

    identity: str
    machine: str
    """For people."""
    started_at: datetime
    alive_until: float
    """By the store's clock."""
    seconds_left: float


@dataclass(frozen=True)
class AuditEvent:
    """Something that was done, to which disk, and for whom."""

    id: int
    at: datetime
    node: str
    event: str
    """`export.claimed`, `export.ready`, `attachment.attached`, `provider.paused`…"""
    disk_id: str
    """Empty where it is about no disk."""
    export_id: str | None = None
    holder: str | None = None
    detail: str = ""
    provider: str | None = None
    """The provider that an operator's action is about."""
    ordered_by: str | None = None
    """The operator who did it, if given."""


@dataclass(frozen=True)
class DiskClaim:
    """What an export that is not over excludes others from."""

    export_id: str
    canonical_id: str
    is_exclusive: bool


@dataclass(frozen=True)
class Contents:
    """All that the store says of this moment."""

    exports: tuple[ExportRecord, ...]
    claims: tuple[DiskClaim, ...]
    attachments: tuple[AttachmentRecord, ...]
    last_events: Mapping[str, str]
    """Of each export, the last event that changed its state."""
    misfiled: tuple[str, ...]
    """Exports and attachments of which two columns name different disks."""


@dataclass(frozen=True)
class ExportFilter:
    """Which exports are listed. An empty field does not restrict."""

    disk: str = ""
    holder: str = ""
    node: str = ""
    access: Access | None = None
    states: frozenset[ExportState] = field(default_factory=frozenset)
