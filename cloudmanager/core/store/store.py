"""The store as a whole, and what reaches across its tables."""

from collections.abc import Set
from typing import Self

from sqlalchemy import bindparam, func, select, update

from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import ConfigurationError, StoreUnavailable
from cloudmanager.core.model import CLAIMING_STATES, AttachmentState, ExportState
from cloudmanager.core.records import AttachmentRecord, Contents, DiskClaim
from cloudmanager.core.statedir import secure_store
from cloudmanager.core.store import schema, sqlite_file, trail
from cloudmanager.core.store.attachments import AttachmentTable, is_attachment
from cloudmanager.core.store.claims import ClaimTable
from cloudmanager.core.store.database import Database, parsed
from cloudmanager.core.store.exports import ExportTable
from cloudmanager.core.store.maintenance import MaintenanceTable
from cloudmanager.core.store.nodes import NodeTable
from cloudmanager.core.store.rows import attachment_record, export_record, misfiled_attachment, misfiled_export
from cloudmanager.core.store.trail import AuditTrail

_STATE_EVENTS = [f"export.{what}" for what in ("claimed", "ready", "closing", "closed", "failed")]
_LAST = (
    select(func.max(schema.audit_events.c.id))
    .where(schema.audit_events.c.event.in_(_STATE_EVENTS))
    .group_by(schema.audit_events.c.export_id)
)
_LAST_EVENTS = select(schema.audit_events.c.export_id, schema.audit_events.c.event).where(
    schema.audit_events.c.id.in_(_LAST)
)
_CLAIMING = select(
    schema.exports.c.id, schema.exports.c.canonical_id, schema.exports.c.state, schema.exports.c.expires_boottime
).where(schema.exports.c.node == bindparam("on_node"), schema.exports.c.state.in_([s.value for s in CLAIMING_STATES]))
_ATTACHED = select(schema.attachments.c.canonical_id).where(schema.attachments.c.node == bindparam("on_node"))


class Store:
    """All that reads and writes the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._read = database.read
        self._write = database.write
        self._clock = clock
        self.exports = ExportTable(database, clock)
        self.claims = ClaimTable(database)
        self.attachments = AttachmentTable(database, clock)
        self.nodes = NodeTable(database, clock)
        self.maintenance = MaintenanceTable(database)
        self.trail = AuditTrail(database)

    @classmethod
    def open(cls, url: str, clock: Clock) -> Self:
        """Connects, and migrates to this version's schema. A file is made private.

        Raises StoreUnavailable, ConfigurationError.
        """
        if file := sqlite_file.path_of(parsed(url)):
            secure_store(file)
        return cls(Database.open(url), clock)

    def close(self) -> None:
        self._database.close()

    @property
    def write_failure(self) -> StoreUnavailable | None:
        """Why the last write failed; None once one has succeeded again."""
        return self._database.write_failure

    def active_disks(self, node: str) -> set[str]:
        """Canonical ids of the disks that the node has exports or an attachment of."""
        with self._read() as connection:
            exported = {row.canonical_id for row in connection.execute(_CLAIMING, {"on_node": node})}
            return exported.union(connection.execute(_ATTACHED, {"on_node": node}).scalars())

    def disks_with_work(self, node: str, boottime: float, served: Set[str]) -> set[str]:
        """Those of the active disks that need work: an export is not as it should be, or the disk has none.

        `served`: the exports whose servers live.

        An export is as it should be that is ready, has not expired and is served. Of those, which may be a thousand, a
        few columns are read and no record is made.
        """
        with self._read() as connection:
            exports = connection.execute(_CLAIMING, {"on_node": node}).all()
            attached = set(connection.execute(_ATTACHED, {"on_node": node}).scalars())
        unneeded = attached.difference(canonical_id for _, canonical_id, _, _ in exports)
        return unneeded | {
            canonical_id
            for export_id, canonical_id, state, expires in exports
            if state != ExportState.READY.value or expires <= boottime or export_id not in served
        }

    def rename_node(self, former: str, name: str, identity: str) -> None:
        """Moves the node's rows to its new name. Raises ConfigurationError when that is another node's.

        Does nothing where the former name is that of a node with another identity: then it was not this one's.
        """
        tables = (schema.exports, schema.attachments, schema.nodes)
        with self._write() as connection:
            rows = connection.execute(select(schema.nodes.c.name, schema.nodes.c.identity))
            known: dict[str, str | None] = {row.name: row.identity for row in rows}
            if former not in known or known[former] not in (None, identity):
                return  # it was renamed already, and the note of that was lost; or it is another's
            if name in known:
                raise ConfigurationError(
                    f"server.node: this machine was called {former}, and the store knows another node as {name}. "
                    "Give this one a name of its own."
                )
            for table in tables:
                column = table.c.name if table is schema.nodes else table.c.node
                connection.execute(update(table).where(column == former).values({column.name: name}))

    def contents(self) -> Contents:
        """Everything as of one moment, for a check."""
        with self._database.snapshot() as connection:
            exports = connection.execute(select(schema.exports).order_by(schema.exports.c.id)).mappings().all()
            attachments = connection.execute(select(schema.attachments)).mappings().all()
            claims = connection.execute(select(schema.claims)).mappings().all()
            events = {row.export_id: row.event for row in connection.execute(_LAST_EVENTS)}
            return Contents(
                tuple(map(export_record, exports)),
                tuple(DiskClaim(**row) for row in claims),
                tuple(map(attachment_record, attachments)),
                events,
                (*filter(None, map(misfiled_export, exports)), *filter(None, map(misfiled_attachment, attachments))),
            )

    def disown(self, node: str, why: str) -> list[AttachmentRecord]:
        """From now on no attachment is ours. Returns those that were, or were about to be."""
        ours = [record for record in self.attachments.all() if record.is_ours]
        at = self._clock.now()
        with self._write() as connection:
            trail.add(connection, "store.restored", at, why, node=node, disk_id="")
            for record in ours:
                foreign = {"state": AttachmentState.FOREIGN.value, "since": at}
                connection.execute(update(schema.attachments).where(is_attachment(record)).values(foreign))
                trail.about_disk(connection, record.node, record.plan.disk, "attachment.foreign", at, why)
        return ours
