"""The terms of the domain, as frozen data."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, Self, TypeVar

from cloudmanager.core.errors import CloudManagerError, InvalidDiskId, InvalidRequest

Item = TypeVar("Item")

MAX_DISK_ID_LENGTH = 1024
MAX_HOLDER_LENGTH = 256
MAX_NOTE_LENGTH = 4096
MAX_KEY_LENGTH = 255
_PROVIDER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def is_provider_name(name: str) -> bool:
    """Lower-case letters, digits, `_` and `-`, 63 characters at most: the part before the colon."""
    return _PROVIDER_NAME.fullmatch(name) is not None


def check_text(name: str, value: str, longest: int, *, needed: bool = False) -> None:
    """Checks a text that a person gives: a holder, a note, a reason. A required one has one line.

    Raises InvalidRequest.
    """
    if needed and not value.strip():
        raise InvalidRequest(f"{name} must not be empty.")
    if len(value) > longest:
        raise InvalidRequest(f"{name} has {len(value)} characters; at most {longest} are kept.")
    if not all(char.isprintable() or (char == "\n" and not needed) for char in value):
        raise InvalidRequest(f"{name} must be printable text.")


class Access(StrEnum):
    """How a client may use a disk."""

    READ_ONLY = "read-only"
    """Reads; shares the disk with other readers."""
    SCRATCH = "scratch"
    """Reads the disk; writes go to a private overlay that is thrown away."""
    READ_WRITE = "read-write"
    """Writes to the disk; excludes every other claim on it."""

    @property
    def writes_disk(self) -> bool:
        return self is Access.READ_WRITE


@dataclass(frozen=True)
class DiskId:
    """A disk as a client names it: `provider:native-id`."""

    provider: str
    native: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidDiskId, whose message shows the form of an id."""
        provider, colon, native = text.partition(":")
        if not colon or not is_provider_name(provider):
            raise InvalidDiskId(
                f"{_shown(text)} does not name a provider: write it as provider:disk, for example local:web01.qcow2."
            )
        if not native:
            raise InvalidDiskId(f"{_shown(text)} names a provider but no disk: write it as {provider}:disk.")
        if len(text.encode("utf-8", "surrogatepass")) > MAX_DISK_ID_LENGTH:
            raise InvalidDiskId(f"A disk id has at most {MAX_DISK_ID_LENGTH} bytes; this one has {len(text)}.")
        if any(ord(char) < 0x20 or ord(char) == 0x7F or 0xD800 <= ord(char) <= 0xDFFF for char in native):
            raise InvalidDiskId(f"{_shown(text)} contains control characters or is not valid UTF-8.")
        return cls(provider, native)

    def __str__(self) -> str:
        return f"{self.provider}:{self.native}"


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")


@dataclass(frozen=True)
class Node:
    """The machine that this cloudmanager runs on, as a provider knows it."""

    name: str
    location: str = ""
    """Zone, region or availability set: where a disk must be to be attached here. Empty where that has no meaning."""
    native_id: str = ""
    """The provider's full identifier of the machine, where it has one."""


@dataclass(frozen=True)
class Disk:
    """What a provider knows of a disk. Facts of the moment: ask again rather than keep them."""

    id: DiskId
    canonical_id: str
    """Names the disk world-wide, however it was spelled and whichever provider answers; a partition has its disk's."""
    size_bytes: int
    """What a client will see: the virtual size of an image."""
    format: str = "raw"
    location: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    access: frozenset[Access] = frozenset(Access)
    """The accesses that the provider can give."""
    held_by: tuple[str, ...] = ()
    """Who uses it besides us: instances it is attached to, or mounts and other holders on this machine."""
    backing: tuple[str, ...] = ()
    """Canonical ids of the disks that this one reads through; a claim on it is a read-only claim on them."""
    actual_size_bytes: int | None = None
    """The space it takes where it is stored, where that is known and differs from its size."""
    created_at: datetime | None = None
    logical_sector_bytes: int | None = None
    """What partition tables on it count in: 512 or 4096. None: not known before its device is."""
    incarnation: str = ""
    """What its source gives to this one disk and never again, though a later disk may have the same name; a partition
    has its disk's. Empty where the source has nothing of the kind, and in what an older version has stored."""
    is_attached: bool = field(default=False, compare=False)
    """To this machine, as the cloud says, whoever attached it. Where nothing is ever attached it stays false."""
    is_boot: bool = field(default=False, compare=False)
    """This machine runs from it: it is never exported read-write."""


class AttachedAs(StrEnum):
    """What a disk is to this machine, to which it is attached."""

    BOOT = "boot"
    """This machine runs from it."""
    OURS = "ours"
    """The service attached it, or is about to, and will detach it."""
    FOREIGN = "foreign"
    """Somebody else attached it; the service never detaches it."""


@dataclass(frozen=True)
class FileIdentity:
    """One file or device node, whatever its path: what must be open is what was checked.

    For a block device `device` is the device itself (st_rdev) and `inode` is 0.
    """

    device: int
    inode: int


@dataclass(frozen=True)
class Device:
    """Where a disk's bytes are on this node, verified by identity."""

    path: str
    size_bytes: int
    """What a client will see."""
    identity: FileIdentity
    format: str = "raw"
    """QEMU's name of the format. Decided by us, never probed."""
    driver_options: Mapping[str, str] = field(default_factory=dict)
    """Options of QEMU's driver of the format, by its own names, with which it reads the image as it was inspected."""
    is_block: bool = False
    """A block device, not a file."""
    logical_sector_bytes: int = 512
    """As the kernel says of a block device (BLKSSZGET). An image file has those that QEMU gives it."""
    backing: "Device | None" = None
    """The next image of an allowed backing chain."""
    is_stable: bool = True
    """Nobody else writes to the bytes while they are exported read-only, so the page cache may serve them."""
    incarnation: str = field(default="", compare=False)
    """The disk's incarnation when the device was found. Empty: `locate` did not ask; `describe` has it."""


@dataclass(frozen=True)
class NotAttached:
    """The certain answer that a disk has no device on this node."""

    reason: str = ""


@dataclass(frozen=True)
class AttachPlan:
    """What an attach will do, committed to the store before it is done: the proof of ownership after a crash."""

    disk: Disk
    node: Node
    access: Access
    """READ_ONLY where the cloud can attach read-only and nothing more is wanted, else READ_WRITE."""
    request_id: str
    """A UUID, new in each plan."""
    slot: str = ""
    """What the cloud knows the attachment by on this node: GCE's deviceName, EBS's device, Azure's LUN."""
    is_present: bool = False
    """The disk was attached here when the plan was made, so the attachment is not ours and is never detached."""
    proof: str = ""
    """What `attach` has kept of its request, in a form of its own: by it the attachment is known as the plan's after a
    crash. Empty until something was kept."""

    def attachment(self) -> "Attachment":
        """What the plan makes when it is carried out."""
        return Attachment(self.disk, self.node, self.access, self.slot, self.request_id, self.proof)


@dataclass(frozen=True)
class Attachment:
    """The fact that a disk is attached to this node."""

    disk: Disk
    node: Node
    access: Access
    slot: str = ""
    request_id: str = ""
    """That of the plan that made it; empty when that is not proved, so that it is never detached."""
    proof: str = ""
    """That of the plan. Empty: nothing was kept, so only what the cloud itself knows of the request can prove it."""
    reason: str = ""
    """Why it is not proved to be the plan's, in a sentence for people. Empty where it is."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of a disk's bytes at one moment, in the cloud's keeping."""

    id: DiskId
    """`provider:native-id`, as for a disk."""
    size_bytes: int
    """Of a disk that is made from it."""
    location: str = ""


CONFIRMED = "confirmed"
"""The proof of an attachment that `attach` confirmed as the plan's, if the provider kept no proof of its own."""


class AttachmentState(StrEnum):
    PLANNED = "planned"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    STUCK = "stuck"
    """A detach was refused, or the device is held: it is retried, and `error` says why."""
    FOREIGN = "foreign"
    """Not proved to be attached by us: may be exported, is never detached. `error` says why, where that is known."""


class NodeState(StrEnum):
    ACTIVE = "active"
    DRAINING = "draining"
    """It takes no new exports, and has some left, or disks that are still attached."""
    DRAINED = "drained"
    """It takes no new exports and has nothing left."""


@dataclass(frozen=True)
class Problem:
    """An error as it is kept and shown."""

    code: str
    title: str
    detail: str
    retriable: bool = False
    cloud_code: str | None = None
    retry_after: float | None = None
    """Seconds."""

    @classmethod
    def of(cls, error: CloudManagerError) -> Self:
        return cls(error.code, error.title, error.detail, error.retriable, error.cloud_code, error.retry_after)


class ExportState(StrEnum):
    PENDING = "pending"
    ATTACHING = "attaching"
    READY = "ready"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"

    @property
    def is_starting(self) -> bool:
        """Claimed, and not ready yet: it becomes ready, or it ends."""
        return self in (ExportState.PENDING, ExportState.ATTACHING)

    @property
    def is_live(self) -> bool:
        """It holds its claim and is, or will be, served."""
        return self in LIVE_STATES

    @property
    def is_over(self) -> bool:
        return self in OVER_STATES


LIVE_STATES = frozenset({ExportState.PENDING, ExportState.ATTACHING, ExportState.READY})
OVER_STATES = frozenset({ExportState.CLOSED, ExportState.FAILED})
CLAIMING_STATES = LIVE_STATES | {ExportState.CLOSING}
"""A closing export may still have clients, so it keeps its claim until it is closed."""


class Tls(StrEnum):
    """How the connections of an export are encrypted, and how clients authenticate."""

    OFF = "off"
    PSK = "psk"
    """By the export's own key, which its credentials have."""
    X509 = "x509"
    """By a certificate of the authority that the service trusts. The client has it already."""


@dataclass(frozen=True)
class Credentials:
    """What a client needs to connect, beyond the address. Never logged."""

    username: str
    key: str = field(repr=False)
    """TLS pre-shared key, in hexadecimal."""
    type: str = "tls-psk"


@dataclass(frozen=True)
class Export:
    """One client's expiring claim on a disk."""

    id: str
    disk: Disk
    access: Access
    holder: str
    state: ExportState
    node: str
    name: str
    """The NBD export name: unguessable, and on the command line of the process that serves it."""
    created_at: datetime
    expires_at: datetime
    note: str = ""
    port: int | None = None
    uri: str | None = None
    """Set when the export is ready."""
    size_bytes: int | None = None
    format: str | None = None
    logical_sector_bytes: int | None = None
    """Of the disk, once it was ready: a client that wants a block device gives it those."""
    tls: Tls | None = None
    """Set when the export is ready."""
    credentials: Credentials | None = None
    error: Problem | None = None


@dataclass(frozen=True)
class Query:
    """Which disks `find` looks for. An empty field does not restrict."""

    text: str = ""
    """A part of the name, in any letter case."""
    location: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    state: str = ""
    """A disk's state as the cloud calls it."""


@dataclass(frozen=True)
class Page(Generic[Item]):
    """A part of a list. `next_page` is the token that continues it, None at the end."""

    items: tuple[Item, ...]
    next_page: str | None = None


class Severity(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of `cloudmanager doctor`: what was looked at, what was seen, and what to do about it."""

    subject: str
    severity: Severity
    seen: str
    advice: str = ""
