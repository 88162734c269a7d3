"""What the store keeps, as rows of its tables and back."""

from dataclasses import fields
from typing import Any

from sqlalchemy import RowMapping

from cloudmanager.core.model import Access, AttachmentState, ExportState
from cloudmanager.core.records import AttachmentRecord, ExportRecord

_EXPORT_FIELDS = tuple(field.name for field in fields(ExportRecord))


def export_row(record: ExportRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in _EXPORT_FIELDS}
    return row | {
        "disk_id": str(record.disk.id),
        "canonical_id": record.disk.canonical_id,
        "access": record.access.value,
        "state": record.state.value,
    }


def export_record(row: RowMapping) -> ExportRecord:
    values = {name: row[name] for name in _EXPORT_FIELDS}
    return ExportRecord(**values | {"access": Access(row["access"]), "state": ExportState(row["state"])})


def attachment_record(row: RowMapping) -> AttachmentRecord:
    values = {field.name: row[field.name] for field in fields(AttachmentRecord)}
    return AttachmentRecord(**values | {"state": AttachmentState(row["state"])})


def misfiled_export(row: RowMapping) -> str | None:
    names = (row["disk_id"], row["canonical_id"])
    is_right = names == (str(row["disk"].id), row["disk"].canonical_id)
    return None if is_right else f"export {row['id']} of {row['disk'].id} is filed under {' and '.join(names)}"


def misfiled_attachment(row: RowMapping) -> str | None:
    disk = row["plan"].disk
    is_right = row["canonical_id"] == disk.canonical_id
    return None if is_right else f"the attachment of {disk.id} is filed under {row['canonical_id']}"
