"""What EC2 says of volumes and snapshots, as frozen data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Self

_GIB = 1024**3
SECTOR_BYTES = 512
"""Of every volume. https://docs.aws.amazon.com/ebs/latest/userguide/volume_constraints.html"""
Document = Mapping[str, Any]  # an answer of boto3, whose shapes are made at run time


class VolumeState(StrEnum):
    CREATING = "creating"
    AVAILABLE = "available"
    IN_USE = "in-use"
    DELETING = "deleting"
    DELETED = "deleted"
    ERROR = "error"

    @property
    def is_gone(self) -> bool:
        return self in (VolumeState.DELETING, VolumeState.DELETED)


class AttachmentState(StrEnum):
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    DETACHED = "detached"
    BUSY = "busy"
    """Detaching, and held by the instance's operating system."""

    @property
    def is_leaving(self) -> bool:
        return self in (AttachmentState.DETACHING, AttachmentState.BUSY)


@dataclass(frozen=True)
class VolumeAttachment:
    """A volume on an instance."""

    instance_id: str
    device: str
    state: AttachmentState
    since: datetime | None = None
    card: int = 0
    """Index of the EBS card, of a machine that has several."""

    @classmethod
    def of(cls, answer: Document) -> Self:
        # An attachment to a service that AWS runs (an ECS task) has no instance of ours, but holds the volume.
        holder = answer.get("InstanceId") or answer.get("AssociatedResource") or "an AWS service"
        state, since = AttachmentState(answer["State"]), _utc(answer.get("AttachTime"))
        return cls(holder, answer.get("Device", ""), state, since, answer.get("EbsCardIndex") or 0)


@dataclass(frozen=True)
class Volume:
    id: str
    region: str
    zone: str
    size_bytes: int
    state: VolumeState
    attachments: tuple[VolumeAttachment, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    is_multi_attach: bool = False
    is_encrypted: bool = False
    created_at: datetime | None = None
    seen_at: datetime | None = None
    """When EC2 said so, by its own clock, to the second."""

    @classmethod
    def of(cls, answer: Document, region: str, seen_at: datetime | None = None) -> Self:
        every = (VolumeAttachment.of(item) for item in answer.get("Attachments", ()))
        return cls(
            id=answer["VolumeId"],
            region=region,
            zone=answer["AvailabilityZone"],
            size_bytes=answer["Size"] * _GIB,
            state=VolumeState(answer["State"]),
            attachments=tuple(item for item in every if item.state is not AttachmentState.DETACHED),
            tags=_tags(answer),
            is_multi_attach=answer.get("MultiAttachEnabled", False),
            is_encrypted=answer.get("Encrypted", False),
            created_at=_utc(answer.get("CreateTime")),
            seen_at=seen_at,
        )

    def on(self, instance_id: str) -> VolumeAttachment | None:
        return next((item for item in self.attachments if item.instance_id == instance_id), None)

    def elsewhere(self, instance_id: str) -> tuple[str, ...]:
        """The other instances that have it, or are about to get or lose it."""
        return tuple(item.instance_id for item in self.attachments if item.instance_id != instance_id)

    @property
    def name(self) -> str:
        return self.tags.get("Name", "")


@dataclass(frozen=True)
class EbsLimits:
    """Of an instance type: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_EbsInfo.html"""

    limit: int | None = None
    """Volumes with the root volume; None: not known."""
    is_shared: bool = False
    """Network interfaces and NVMe instance store volumes take slots from the same limit."""
    cards: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, answer: Document) -> Self:
        info = answer.get("EbsInfo", {})
        named = tuple(sorted(card["EbsCardIndex"] for card in info.get("EbsCards", ())))
        return cls(
            limit=info.get("MaximumEbsAttachments"),
            is_shared=info.get("AttachmentLimitType") == "shared",
            cards=named or tuple(range(info.get("MaximumEbsCards") or 1)),
        )


class SnapshotState(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    ERROR = "error"
    RECOVERABLE = "recoverable"
    RECOVERING = "recovering"


@dataclass(frozen=True)
class VolumeSnapshot:
    id: str
    region: str
    size_bytes: int
    state: SnapshotState
    started_at: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    """What EC2 says of a failure."""

    @classmethod
    def of(cls, answer: Document, region: str) -> Self:
        return cls(
            id=answer["SnapshotId"],
            region=region,
            size_bytes=answer["VolumeSize"] * _GIB,
            state=SnapshotState(answer["State"]),
            started_at=_utc(answer.get("StartTime")),
            tags=_tags(answer),
            why=answer.get("StateMessage", ""),
        )


def answered_at(answer: Document) -> datetime | None:
    """EC2's clock when it answered (RFC 9110, 6.6.1), None where the answer has no such header."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None


def _utc(time: datetime | None) -> datetime | None:
    return time.astimezone(UTC) if time else None


def _tags(answer: Document) -> dict[str, str]:
    return {tag["Key"]: tag.get("Value", "") for tag in answer.get("Tags", ())}
