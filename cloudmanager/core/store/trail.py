"""The audit trail. An event is added in the transaction that it describes."""

from datetime import datetime

from sqlalchemy import Connection, insert, select

from cloudmanager.core.errors import InvalidRequest
from cloudmanager.core.model import Disk, Page
from cloudmanager.core.records import AuditEvent, MaintenanceAction
from cloudmanager.core.store import schema
from cloudmanager.core.store.database import Database

_INSERT = insert(schema.audit_events)


def add(connection: Connection, event_name: str, at: datetime, detail: str, **who: str | None) -> None:
    """`who`: the event's node, disk_id, export_id, holder, provider, ordered_by."""
    connection.execute(_INSERT, {"at": at, "event": event_name, "detail": detail} | who)


def about_disk(connection: Connection, node: str, disk: Disk, event_name: str, at: datetime, detail: str) -> None:
    add(connection, event_name, at, detail, node=node, disk_id=str(disk.id))


def about_maintenance(
    connection: Connection, event_name: str, action: MaintenanceAction, node: str, provider: str | None = None
) -> None:
    who = {"node": node, "disk_id": "", "provider": provider, "ordered_by": action.by or None}
    add(connection, event_name, action.since, action.reason, **who)


class AuditTrail:
    """What has happened."""

    def __init__(self, database: Database) -> None:
        self._read = database.read

    def events(self, page: str | None, limit: int, export_id: str = "") -> Page[AuditEvent]:
        """Newest first."""
        table = schema.audit_events
        query = select(table).order_by(table.c.id.desc()).limit(limit + 1)
        if export_id:
            query = query.where(table.c.export_id == export_id)
        if page:
            query = query.where(table.c.id < _event_id(page))
        with self._read() as connection:
            events = [AuditEvent(**row) for row in connection.execute(query).mappings()]
        return Page(tuple(events[:limit]), str(events[limit - 1].id) if len(events) > limit else None)


def _event_id(page: str) -> int:
    if not (page.isascii() and page.isdecimal() and len(page) <= 18):
        raise InvalidRequest("The page token is not one that this list gave. Start again without it.")
    return int(page)
