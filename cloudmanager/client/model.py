"""What a service answers, as frozen data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from cloudmanager.client.address import Credentials, NbdAddress


class Access(StrEnum):
    """How a client may use a disk."""

    READ_ONLY = "read-only"
    SCRATCH = "scratch"
    """Reads the disk; writes go to a private overlay that is thrown away."""
    READ_WRITE = "read-write"
    """Excludes every other claim on the disk."""

    @property
    def can_write(self) -> bool:
        """Whether a client may write, to the disk or to its private overlay."""
        return self is not Access.READ_ONLY


class ExportState(StrEnum):
    """The state of an export. See the page on concepts for the transitions."""

    PENDING = "pending"
    ATTACHING = "attaching"
    READY = "ready"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"

    @property
    def is_live(self) -> bool:
        """It is served, or will be: also a ready export whose server is being replaced is `attaching`."""
        return self in (ExportState.PENDING, ExportState.ATTACHING, ExportState.READY)


class Tls(StrEnum):
    """How an export's connections are encrypted, and by what a client is let in."""

    OFF = "off"
    PSK = "psk"
    """The key in the export's credentials."""
    X509 = "x509"
    """A certificate that the client has already."""


class AttachmentState(StrEnum):
    """The state of an attachment."""

    PLANNED = "planned"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    STUCK = "stuck"
    FOREIGN = "foreign"


class NodeState(StrEnum):
    """Whether a node takes new exports."""

    ACTIVE = "active"
    DRAINING = "draining"
    """It takes no new exports, and has some left, or disks that are attached."""
    DRAINED = "drained"


class Severity(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Problem:
    """Why something failed, or why the service tries it again. `code` is one of `errors.BY_CODE`."""

    code: str
    title: str
    detail: str
    retriable: bool
    cloud_code: str | None
    retry_after: float | None
    """Seconds."""


@dataclass(frozen=True)
class Export:
    """One client's expiring claim on a disk."""

    id: str
    disk: str
    access: Access
    holder: str
    state: ExportState
    uri: str | None
    """Set while it is ready."""
    size_bytes: int | None
    format: str | None
    """Of the disk's bytes where they are stored. What is served is always raw."""
    created_at: datetime
    expires_at: datetime
    node: str
    note: str
    credentials: Credentials | None
    """Never in a list, nor in the answer to a release."""
    error: Problem | None
    tls: Tls | None = None
    """Set while it is ready."""
    logical_sector_bytes: int | None = None
    """What partition tables on the disk count in, once it was ready. None: a service of an older version."""
    incarnation: str = ""
    """Which disk of the name was claimed: another one that gets the name later differs in this. Empty where that is not
    known."""

    @property
    def address(self) -> NbdAddress | None:
        """None unless it is ready."""
        if self.uri is None:
            return None
        return NbdAddress(
            self.uri,
            self.credentials,
            self.size_bytes,
            self.access.can_write,
            logical_sector_bytes=self.logical_sector_bytes,
        )


@dataclass(frozen=True)
class Disk:
    """What a provider says about a disk now."""

    id: str
    canonical_id: str
    """Names the disk world-wide, however it was spelled."""
    size_bytes: int
    format: str
    location: str
    description: str
    labels: Mapping[str, str]
    access: tuple[Access, ...]
    """The accesses that the provider can give."""
    held_by: tuple[str, ...]
    """Who uses it besides cloudmanager."""
    backing: tuple[str, ...]
    """Canonical ids of the disks that this one reads through."""
    actual_size_bytes: int | None
    created_at: datetime | None
    logical_sector_bytes: int | None = None
    """What partition tables on it count in. None: not known before it is exported."""
    incarnation: str = ""
    """Identifies this disk among all that ever had its name. Empty where its source has nothing of the kind."""
    attached: str | None = None
    """To the service's machine, as `boot` (it runs from it), `ours` (the service attached it) or `foreign`."""
    exported_to: tuple[str, ...] = ()
    """Holders of the exports of it that are not over."""


@dataclass(frozen=True)
class Attachment:
    """The fact that a disk is attached to a node."""

    disk: str
    canonical_id: str
    node: str
    access: Access
    slot: str
    """What the cloud knows it by: a device name or a LUN."""
    state: AttachmentState
    is_ours: bool
    """The service attached it, so it will detach it."""
    since: datetime
    error: Problem | None
    incarnation: str = ""
    """Of the disk."""


@dataclass(frozen=True)
class MaintenanceAction:
    """What an operator has done: since when, who, and why."""

    since: datetime
    by: str
    reason: str


@dataclass(frozen=True)
class ProviderNode:
    """The machine of the service, as a provider knows it."""

    name: str
    location: str


@dataclass(frozen=True)
class Provider:
    """A configured provider."""

    name: str
    type: str
    node: ProviderNode | None
    error: Problem | None
    pause: MaintenanceAction | None = None
    """Set while an operator lets it make no new exports."""


@dataclass(frozen=True)
class Node:
    """A machine that uses the service's store."""

    name: str
    started_at: datetime
    seen_at: datetime
    state: NodeState = NodeState.ACTIVE
    drain: MaintenanceAction | None = None
    """Set while an operator lets it take no new exports."""
    exports: int = 0
    """Those that are not over."""
    attachments: int = 0


@dataclass(frozen=True)
class AuditEvent:
    """Something that was done, to which disk, and for whom."""

    id: int
    at: datetime
    node: str
    event: str
    disk: str
    export_id: str | None
    holder: str | None
    detail: str
    provider: str | None = None
    ordered_by: str | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that the service looked at."""

    subject: str
    severity: Severity
    seen: str
    advice: str


@dataclass(frozen=True)
class Health:
    """Whether the service can serve requests now, and what it looked at."""

    ready: bool
    findings: tuple[Finding, ...] = field(default=())
