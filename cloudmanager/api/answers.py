"""What a client is answered, as the OpenAPI document shows it: made from the core's data by `of`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from cloudmanager.api.errors import InvalidFields
from cloudmanager.core import model, records
from cloudmanager.core.catalog import DiskUse, ProviderStatus
from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.model import Access, AttachedAs, AttachmentState, ExportState, NodeState, Severity, Tls

Item = TypeVar("Item")


_INCARNATION = (
    "Identifies the disk among all that ever had its name, as reported by its source; to compare, not to read. Empty "
    "where the source reports nothing of the kind."
)


class AnswerModel(BaseModel):
    """What all of them are."""

    model_config = ConfigDict(frozen=True)


class KeptError(AnswerModel):
    """Why something failed, or why it is being tried again."""

    code: str = Field(description="Stable; docs/http-api.md lists them all.", examples=["corrupt_image"])
    title: str = Field(examples=["The image is damaged"])
    detail: str = Field(description="What happened and what can be done, for a person.")
    retriable: bool = Field(description="It may work later without any change.")
    cloud_code: str | None = Field(description="The cloud's own code, unchanged.")
    retry_after: float | None = Field(description="Seconds.")

    @classmethod
    def of(cls, problem: model.Problem) -> Self:
        return cls(
            code=problem.code,
            title=problem.title,
            detail=problem.detail,
            retriable=problem.retriable,
            cloud_code=problem.cloud_code,
            retry_after=problem.retry_after,
        )


class Credentials(AnswerModel):
    """What a client needs to connect beyond the address."""

    type: str = Field(examples=["tls-psk"])
    username: str
    key: str = Field(description="TLS pre-shared key, in hexadecimal.")

    @classmethod
    def of(cls, credentials: model.Credentials) -> Self:
        return cls(type=credentials.type, username=credentials.username, key=credentials.key)


class Export(AnswerModel):
    """One client's expiring claim on a disk, and where it is served."""

    id: str = Field(examples=["019a1b2c3d4e5f60718293a4"])
    disk: str = Field(examples=["local:web01.qcow2"])
    incarnation: str = Field(description=_INCARNATION, examples=["2674509.1984446342.1769860800.000000000"])
    access: Access
    holder: str = Field(examples=["plaso-7"])
    state: ExportState = Field(examples=["ready"])
    uri: str | None = Field(
        description="The NBD address, once the export is ready.",
        examples=["nbd://127.0.0.1:10900/q4jSdm0zR0yD8a"],
    )
    size_bytes: int | None = Field(description="What a client sees.", examples=[1073741824])
    format: str | None = Field(description="Format of the disk's bytes where they are stored.", examples=["qcow2"])
    logical_sector_bytes: int | None = Field(
        description="What partition tables on the disk count in, once it was ready: 512 or 4096. A client that makes a "
        "block device of the export gives it sectors of that size.",
        examples=[512],
    )
    created_at: datetime = Field(examples=["2026-01-31T12:00:00Z"])
    expires_at: datetime = Field(examples=["2026-01-31T13:00:00Z"])
    node: str = Field(examples=["worker-1"])
    note: str
    tls: Tls | None = Field(
        description="How a client connects, once the export is ready: `off`, with the key in `credentials` (`psk`), or "
        "with a certificate that it has already (`x509`)."
    )
    credentials: Credentials | None = Field(
        description="Shown in the answer about one export, never in a list; null unless `tls` is `psk`."
    )
    error: KeptError | None

    @classmethod
    def of(cls, export: model.Export, *, with_credentials: bool = True) -> Self:
        """Without credentials unless the caller asks for one export: lists show no keys."""
        credentials = export.credentials if with_credentials else None
        return cls(
            id=export.id,
            disk=str(export.disk.id),
            incarnation=export.disk.incarnation,
            access=export.access,
            holder=export.holder,
            state=export.state,
            uri=export.uri,
            size_bytes=export.size_bytes,
            format=export.format,
            logical_sector_bytes=export.logical_sector_bytes,
            tls=export.tls,
            created_at=export.created_at,
            expires_at=export.expires_at,
            node=export.node,
            note=export.note,
            credentials=credentials and Credentials.of(credentials),
            error=export.error and KeptError.of(export.error),
        )


class Disk(AnswerModel):
    """What a provider says about a disk now."""

    id: str = Field(examples=["local:web01.qcow2"])
    canonical_id: str = Field(description="Names the disk world-wide, however it was spelled.")
    incarnation: str = Field(description=_INCARNATION, examples=["2674509.1984446342.1769860800.000000000"])
    size_bytes: int
    format: str
    location: str
    description: str
    labels: dict[str, str]
    access: list[Access] = Field(description="The accesses that the provider can give.")
    held_by: list[str] = Field(description="Who uses it besides cloudmanager.")
    attached: AttachedAs | None = Field(
        description="To the service's machine, and as what: its boot disk, by the service (ours), or by somebody else."
    )
    exported_to: list[str] = Field(description="Holders of the exports of it that are not over.")
    backing: list[str] = Field(description="Canonical ids of the disks that this one reads through.")
    actual_size_bytes: int | None
    created_at: datetime | None
    logical_sector_bytes: int | None = Field(
        description="What partition tables on it count in: 512 or 4096. null: not known before it is exported.",
        examples=[512],
    )

    @classmethod
    def of(cls, disk: model.Disk, use: DiskUse) -> Self:
        return cls(
            id=str(disk.id),
            canonical_id=disk.canonical_id,
            incarnation=disk.incarnation,
            size_bytes=disk.size_bytes,
            format=disk.format,
            location=disk.location,
            description=disk.description,
            labels=dict(disk.labels),
            access=sorted(disk.access),
            held_by=list(disk.held_by),
            attached=use.attached,
            exported_to=list(use.exported_to),
            backing=list(disk.backing),
            actual_size_bytes=disk.actual_size_bytes,
            created_at=disk.created_at,
            logical_sector_bytes=disk.logical_sector_bytes,
        )


class Attachment(AnswerModel):
    """The fact that a disk is attached to a node."""

    disk: str = Field(examples=["prod:us-central1-b/evidence-7"])
    canonical_id: str
    incarnation: str = Field(description=_INCARNATION)
    node: str = Field(examples=["worker-1"])
    access: Access
    slot: str = Field(description="What the cloud knows the attachment by: a device name or a LUN.")
    state: AttachmentState
    is_ours: bool = Field(description="cloudmanager attached it, so it will detach it.")
    since: datetime = Field(description="When the state changed last.")
    error: KeptError | None = Field(description="Why it is stuck, or is being tried again.")

    @classmethod
    def of(cls, record: records.AttachmentRecord) -> Self:
        plan = record.plan
        return cls(
            disk=str(plan.disk.id),
            canonical_id=plan.disk.canonical_id,
            incarnation=plan.disk.incarnation,
            node=record.node,
            access=plan.access,
            slot=plan.slot,
            state=record.state,
            is_ours=record.is_ours,
            since=record.since,
            error=record.error and KeptError.of(record.error),
        )


class MaintenanceAction(AnswerModel):
    """What an operator has done."""

    since: datetime
    by: str = Field(description="Who did it; empty if not given.", examples=["nina"])
    reason: str = Field(examples=["The zone is being evacuated."])

    @classmethod
    def of(cls, action: records.MaintenanceAction) -> Self:
        return cls(since=action.since, by=action.by, reason=action.reason)


class ProviderNode(AnswerModel):
    """The machine as a provider knows it."""

    name: str = Field(examples=["worker-1"])
    location: str = Field(description="Zone, region or availability set. Empty where that has no meaning.")


class Provider(AnswerModel):
    """A configured provider, and this machine as it knows it."""

    name: str = Field(examples=["local"])
    type: str = Field(examples=["local"])
    node: ProviderNode | None = Field(description="null if the provider could not say; `error` has the reason.")
    error: KeptError | None
    pause: MaintenanceAction | None = Field(description="Set while an operator lets it make no new exports.")

    @classmethod
    def of(cls, status: ProviderStatus) -> Self:
        node = status.node
        return cls(
            name=status.name,
            type=status.type,
            node=node and ProviderNode(name=node.name, location=node.location),
            error=status.error and KeptError.of(status.error),
            pause=status.pause and MaintenanceAction.of(status.pause),
        )


class Node(AnswerModel):
    """A machine that a cloudmanager runs on."""

    name: str = Field(examples=["worker-1"])
    started_at: datetime
    seen_at: datetime = Field(description="When its service was last known to run.")
    state: NodeState = Field(
        description="`draining`: it takes no new exports and has some left, or disks that are attached; `drained`: it "
        "has nothing left."
    )
    drain: MaintenanceAction | None = Field(description="Set while an operator lets it take no new exports.")
    exports: int = Field(description="Exports that are not over.", examples=[3])
    attachments: int = Field(description="Disks that are attached, or are being attached or detached.", examples=[2])

    @classmethod
    def of(cls, record: records.NodeRecord) -> Self:
        return cls(
            name=record.name,
            started_at=record.started_at,
            seen_at=record.seen_at,
            state=record.state,
            drain=record.drain and MaintenanceAction.of(record.drain),
            exports=record.exports,
            attachments=record.attachments,
        )


class AuditEvent(AnswerModel):
    """Something that was done, to which disk, and for whom."""

    id: int
    at: datetime
    node: str
    event: str = Field(examples=["export.claimed"])
    disk: str = Field(description="Empty where it is about no disk.", examples=["local:web01.qcow2"])
    export_id: str | None
    holder: str | None
    detail: str
    provider: str | None = Field(description="The provider that was paused or resumed.")
    ordered_by: str | None = Field(description="The operator who did it, if given.")

    @classmethod
    def of(cls, event: records.AuditEvent) -> Self:
        return cls(
            id=event.id,
            at=event.at,
            node=event.node,
            event=event.event,
            disk=event.disk_id,
            export_id=event.export_id,
            holder=event.holder,
            detail=event.detail,
            provider=event.provider,
            ordered_by=event.ordered_by,
        )


class Written(AnswerModel):
    """What a request has written to a disk."""

    written_bytes: int = Field(description="Decompressed bytes in the frames.", examples=[1048576])


class Digests(AnswerModel):
    """Checksums of a range of a disk."""

    block_bytes: int = Field(description="Each checksum is of a block of this length.", examples=[262144])
    digests: str = Field(
        description="In hexadecimal, 32 digits for each block in order: the first 16 bytes of its SHA-256; zeros for a "
        "block that reads as zero.",
        examples=["5feceb66ffc86f38d952786c6d696c79"],
    )


class Items(AnswerModel, Generic[Item]):
    """A part of a list."""

    items: list[Item]
    next_page: str | None = Field(None, description="Give it as `page` to get the next part. null at the end.")


class ExportList(Items[Export]): ...


class DiskList(Items[Disk]): ...


class AttachmentList(Items[Attachment]): ...


class ProviderList(Items[Provider]): ...


class NodeList(Items[Node]): ...


class AuditEventList(Items[AuditEvent]): ...


class Health(AnswerModel):
    status: Literal["ok"] = "ok"


class Finding(AnswerModel):
    """One thing that was looked at."""

    subject: str = Field(examples=["store"])
    severity: Severity
    seen: str = Field(examples=["answers"])
    advice: str

    @classmethod
    def of(cls, finding: model.Finding) -> Self:
        return cls(subject=finding.subject, severity=finding.severity, seen=finding.seen, advice=finding.advice)


class Readiness(AnswerModel):
    """Whether the service can serve requests now."""

    ready: bool
    findings: list[Finding]

    @classmethod
    def of(cls, findings: Sequence[model.Finding]) -> Self:
        ready = all(finding.severity is not Severity.PROBLEM for finding in findings)
        return cls(ready=ready, findings=[Finding.of(finding) for finding in findings])

    @classmethod
    def outline(cls, findings: Sequence[model.Finding]) -> Self:
        """For callers without the token: which kinds of checks passed, without names, paths and reasons."""
        kinds = dict.fromkeys((finding.subject.partition(" ")[0], finding.severity) for finding in findings)
        seen = "The token of the service shows more."
        return cls.of([model.Finding(subject, severity, seen) for subject, severity in kinds])


class Mistake(AnswerModel):
    """One wrong field of the body, or one wrong parameter."""

    detail: str
    pointer: str | None = Field(None, description="JSON pointer into the body.", examples=["#/ttl_seconds"])
    parameter: str | None = Field(None, description="Name of a query parameter or a header.")


class Problem(AnswerModel):
    """An error as RFC 9457 has it."""

    type: str = Field(description="The code as a URI, relative to the service.", examples=["/docs#disk_not_found"])
    title: str = Field(description="The same for every error of this code.")
    status: int
    detail: str = Field(description="What happened and what can be done, for a person.")
    code: str = Field(description="Stable, for programs.", examples=["disk_not_found"])
    retriable: bool = Field(description="The same request may work later.")
    cloud_code: str | None = Field(None, description="The cloud's own code, unchanged.")
    retry_after: float | None = Field(None, description="Seconds; also in the Retry-After header.")
    holder: str | None = Field(None, description="The holder of the conflicting export.")
    errors: list[Mistake] = Field([], description="Which fields or parameters are wrong.")

    @classmethod
    def of(cls, error: CloudManagerError, status: int) -> Self:
        return cls(
            type=f"/docs#{error.code}",
            title=error.title,
            status=status,
            detail=error.detail,
            code=error.code,
            retriable=error.retriable,
            cloud_code=error.cloud_code,
            retry_after=error.retry_after,
            holder=error.holder,
            errors=[
                Mistake(detail=mistake.detail, pointer=mistake.pointer, parameter=mistake.parameter)
                for mistake in (error.mistakes if isinstance(error, InvalidFields) else ())
            ],
        )
