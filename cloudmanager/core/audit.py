"""Audit events, in the transaction of what they tell of."""

from datetime import datetime

from sqlalchemy import Connection, insert

from cloudmanager.core import schema
from cloudmanager.core.model import Disk
from cloudmanager.core.records import Order

_INSERT = insert(schema.audit_events)


def add(connection: Connection, event_name: str, at: datetime, detail: str, **who: str | None) -> None:
    """`who`: the event's node, disk_id, export_id, holder, provider, ordered_by."""
    connection.execute(_INSERT, {"at": at, "event": event_name, "detail": detail} | who)


def about_disk(connection: Connection, node: str, disk: Disk, event_name: str, at: datetime, detail: str) -> None:
    add(connection, event_name, at, detail, node=node, disk_id=str(disk.id))


def about_order(connection: Connection, event_name: str, order: Order, node: str, provider: str | None = None) -> None:
    who = {"node": node, "disk_id": "", "provider": provider, "ordered_by": order.by or None}
    add(connection, event_name, order.since, order.reason, **who)
