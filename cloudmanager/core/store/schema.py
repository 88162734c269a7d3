"""The tables of the store. A change here needs a migration in `migrations/versions`."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    false,
)

from cloudmanager.core.model import AttachPlan, Disk, Problem
from cloudmanager.core.records import MaintenanceAction, ServerProcess


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, also where the engine keeps no zone (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


_KEPT = 256
"""Values of a column. The same disk is read again and again; a thousand of each were 15 MiB."""


class Json(TypeDecorator[Any]):
    """A frozen dataclass of the model, as JSON text."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self.kind = kind
        self._adapter = TypeAdapter(kind)
        self._parsed = lru_cache(maxsize=_KEPT)(self._adapter.validate_json)

    def process_bind_param(self, value: Any, _dialect: Dialect) -> str | None:
        return None if value is None else self._adapter.dump_json(value).decode()

    def process_result_value(self, value: str | None, _dialect: Dialect) -> Any:
        return None if value is None else self._parsed(value)


metadata = MetaData()

nodes = Table(
    "nodes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("boot_id", Text, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("drain", Json(MaintenanceAction)),
    # The service that has the name, and its session.
    Column("identity", Text),
    Column("machine", Text),
    Column("session", Text),
    Column("alive_until", Double),
)

pauses = Table(
    "pauses",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("pause", Json(MaintenanceAction), nullable=False),
)
"""The providers that are paused, on every node that uses the store."""

exports = Table(
    "exports",
    metadata,
    Column("id", Text, primary_key=True),
    Column("node", Text, nullable=False),
    Column("disk_id", Text, nullable=False),
    Column("canonical_id", Text, nullable=False),
    Column("disk", Json(Disk), nullable=False),
    Column("access", Text, nullable=False),
    Column("holder", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("name", Text, nullable=False, unique=True),
    Column("port", Integer),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("over_at", UtcDateTime),
    # The boot clock's readings, and the boot that they belong to.
    Column("boot_id", Text, nullable=False),
    Column("expires_boottime", Double, nullable=False),
    Column("unready_boottime", Double, nullable=False),
    Column("closing_boottime", Double),
    Column("over_boottime", Double),
    Column("size_bytes", BigInteger),
    Column("format", Text),
    Column("server", Json(ServerProcess)),
    Column("error", Json(Problem)),
    Column("is_forced", Boolean, nullable=False, server_default=false()),
    Index("exports_by_disk", "node", "canonical_id"),
    Index("exports_by_state", "state"),
)

claims = Table(
    "claims",
    metadata,
    Column("export_id", Text, ForeignKey("exports.id", ondelete="CASCADE"), primary_key=True),
    Column("canonical_id", Text, primary_key=True),
    Column("is_exclusive", Boolean, nullable=False),
    Index("claims_by_disk", "canonical_id"),
)
"""What the exports that are not over lay claim to: their disk, and the disks that it reads through."""

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("export_id", Text, ForeignKey("exports.id", ondelete="CASCADE"), nullable=False),
)

attachments = Table(
    "attachments",
    metadata,
    Column("node", Text, primary_key=True),
    Column("canonical_id", Text, primary_key=True),
    Column("plan", Json(AttachPlan), nullable=False),
    Column("state", Text, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("error", Json(Problem)),
    # When the last export ended, for the linger.
    Column("boot_id", Text),
    Column("idle_boottime", Double),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("node", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("disk_id", Text, nullable=False),
    Column("export_id", Text),
    Column("holder", Text),
    Column("detail", Text, nullable=False),
    Column("provider", Text),
    Column("ordered_by", Text),
    Index("audit_by_export", "export_id"),
)
