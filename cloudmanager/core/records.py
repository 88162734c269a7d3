"""What the store keeps of exports, attachments, nodes and events, as frozen data."""

from dataclasses import dataclass, field
from datetime import datetime

from cloudmanager.core.model import (
    Access,
    AttachmentState,
    AttachPlan,
    Disk,
    ExportState,
    Problem,
)
from cloudmanager.core.nbd import ServerProcess


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
    """Since when it has wanted to be ready without being it."""
    closing_boottime: float | None = None
    port: int | None = None
    size_bytes: int | None = None
    format: str | None = None
    server: ServerProcess | None = None
    error: Problem | None = None


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
class NodeRecord:
    name: str
    boot_id: str
    started_at: datetime
    seen_at: datetime


@dataclass(frozen=True)
class AuditEvent:
    """Something that was done, to which disk, and for whom."""

    id: int
    at: datetime
    node: str
    event: str
    """`export.claimed`, `export.ready`, `attachment.attached`…"""
    disk_id: str
    export_id: str | None = None
    holder: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class ExportFilter:
    """Which exports are listed. An empty field does not restrict."""

    disk: str = ""
    holder: str = ""
    node: str = ""
    access: Access | None = None
    states: frozenset[ExportState] = field(default_factory=frozenset)
