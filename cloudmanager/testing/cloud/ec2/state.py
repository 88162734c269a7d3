"""What an emulated account holds: volumes, instances, snapshots. States are the cloud's own words."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from cloudmanager.testing.cloud.ec2 import errors
from cloudmanager.testing.cloud.ec2.instance_types import InstanceType

GIB = 1024**3


@dataclass(frozen=True)
class Scope:
    """What one request can see: an account in a region."""

    account: str
    region: str


class VolumeState(StrEnum):
    CREATING = "creating"
    AVAILABLE = "available"
    IN_USE = "in-use"
    DELETING = "deleting"
    ERROR = "error"


class AttachmentState(StrEnum):
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    DETACHED = "detached"
    BUSY = "busy"
    """To be detached, and held by the guest."""


class InstanceState(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    TERMINATED = "terminated"


class SnapshotState(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    ERROR = "error"


@dataclass
class Attachment:
    """One volume on one instance."""

    volume_id: str
    instance_id: str
    device: str
    state: AttachmentState
    since: datetime
    delete_on_termination: bool = False
    card: int = 0
    """Index of the instance's EBS card."""


@dataclass
class Volume:
    id: str
    scope: Scope
    zone: str
    size_gib: int
    type: str
    backing: Path
    created: datetime
    state: VolumeState = VolumeState.CREATING
    tags: dict[str, str] = field(default_factory=dict)
    attachments: list[Attachment] = field(default_factory=list)
    iops: int | None = None
    snapshot_id: str = ""
    is_encrypted: bool = False
    is_multi_attach: bool = False
    is_key_usable: bool = True
    """False: EC2 may not use the key that it is encrypted with."""

    def on(self, instance_id: str) -> Attachment | None:
        return next((item for item in self.attachments if item.instance_id == instance_id), None)

    @property
    def serial(self) -> str:
        """What its NVMe controller says."""
        return self.id.replace("-", "")


@dataclass
class Instance:
    id: str
    scope: Scope
    zone: str
    type: InstanceType
    launched: datetime
    state: InstanceState = InstanceState.RUNNING
    tags: dict[str, str] = field(default_factory=dict)
    network_interfaces: int = 1
    ami_devices: frozenset[str] = frozenset()
    """Device names that the machine image maps, to instance store volumes for example. No API reports them."""
    private_ip: str = "10.0.0.10"

    @property
    def name(self) -> str:
        return self.tags["Name"]

    @property
    def volume_limit(self) -> int:
        return self.type.volume_limit(self.network_interfaces)


@dataclass
class Snapshot:
    id: str
    scope: Scope
    volume_id: str
    size_gib: int
    backing: Path
    started: datetime
    description: str = ""
    state: SnapshotState = SnapshotState.PENDING
    progress: str = "0%"
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class State:
    """All that the cloud knows, of every account and region. By id."""

    volumes: dict[str, Volume] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)

    def attachments(self, instance_id: str) -> list[Attachment]:
        return [
            item for volume in self.volumes.values() for item in volume.attachments if item.instance_id == instance_id
        ]


def now() -> datetime:
    """In whole seconds, as EC2 gives times."""
    return datetime.now(UTC).replace(microsecond=0)


def volume(state: State, scope: Scope, volume_id: str) -> Volume:
    _check_id("Volume", volume_id)
    found = state.volumes.get(volume_id)
    if found is None or found.scope != scope:
        raise errors.no_volume(volume_id)
    return found


def instance(state: State, scope: Scope, instance_id: str) -> Instance:
    _check_id("Instance", instance_id)
    found = state.instances.get(instance_id)
    if found is None or found.scope != scope:
        raise errors.no_instance(instance_id)
    return found


def snapshot(state: State, scope: Scope, snapshot_id: str) -> Snapshot:
    _check_id("Snapshot", snapshot_id)
    found = state.snapshots.get(snapshot_id)
    if found is None or found.scope != scope:
        raise errors.no_snapshot(snapshot_id)
    return found


def _check_id(kind: str, value: str) -> None:
    prefix = {"Volume": "vol", "Instance": "i", "Snapshot": "snap"}[kind]
    if not re.fullmatch(rf"{prefix}-(?:[0-9a-f]{{8}}|[0-9a-f]{{17}})", value):
        raise errors.malformed_id(kind, value, prefix)
