"""What must survive a crash: exports and their claims, attachments, nodes, audit events.

SQLite (WAL, synchronous=FULL: an intent that power loss can undo is no intent) or PostgreSQL. Every method is one
transaction. A change of state names the states that it starts from, so that a late writer cannot undo a newer one.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Self

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Update,
    and_,
    bindparam,
    delete,
    func,
    insert,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from cloudmanager.core import audit, schema
from cloudmanager.core.clock import Clock
from cloudmanager.core.database import Database
from cloudmanager.core.errors import (
    AccessConflict,
    ConfigurationError,
    ExportNotFound,
    IdempotencyMismatch,
    InvalidRequest,
    NodeDraining,
    NodeNotFound,
    ProviderPaused,
    StoreUnavailable,
)
from cloudmanager.core.model import (
    CLAIMING_STATES,
    LIVE_STATES,
    OVER_STATES,
    Access,
    AttachmentState,
    AttachPlan,
    ExportState,
    Page,
    Problem,
)
from cloudmanager.core.nbd import ServerProcess
from cloudmanager.core.records import (
    AttachmentRecord,
    AuditEvent,
    Claim,
    Contents,
    ExportFilter,
    ExportRecord,
    NodeRecord,
    Order,
    Start,
)
from cloudmanager.core.rows import (
    attachment_record,
    claims_of,
    export_record,
    export_row,
    misfiled_attachment,
    misfiled_export,
)

# Statements of the hot paths, built once: building one costs more than SQLite takes to run it.
_EXPORT = select(schema.exports).where(schema.exports.c.id == bindparam("of_export"))
_STANDING = (
    select(schema.exports)
    .join(schema.claims, schema.exports.c.id == schema.claims.c.export_id)
    .where(schema.claims.c.canonical_id == bindparam("of_disk"))
    .where(or_(schema.claims.c.is_exclusive, bindparam("is_exclusive", type_=Boolean())))
    .order_by(schema.exports.c.id)
    .limit(1)
)
_ATTACHMENT = select(schema.attachments).where(
    schema.attachments.c.node == bindparam("on_node"), schema.attachments.c.canonical_id == bindparam("of_disk")
)
_PAUSE = select(schema.pauses.c.pause).where(schema.pauses.c.provider == bindparam("of_provider"))
_DRAIN = select(schema.nodes.c.drain).where(schema.nodes.c.name == bindparam("on_node"))
_ORDERS = select(_PAUSE.scalar_subquery().label("pause"), _DRAIN.scalar_subquery().label("drain"))
_NODES = select(
    schema.nodes,
    select(func.count())
    .where(schema.exports.c.node == schema.nodes.c.name)
    .where(schema.exports.c.state.in_([state.value for state in CLAIMING_STATES]))
    .scalar_subquery()
    .label("exports"),
    select(func.count()).where(schema.attachments.c.node == schema.nodes.c.name).scalar_subquery().label("attachments"),
).order_by(schema.nodes.c.name)
_UNORDERED_SECONDS = 1.0
_INSERT_EXPORT = insert(schema.exports)
_INSERT_CLAIM = insert(schema.claims)
_STATE_EVENTS = [f"export.{what}" for what in ("claimed", "ready", "closing", "closed", "failed")]
_LAST = (
    select(func.max(schema.audit_events.c.id))
    .where(schema.audit_events.c.event.in_(_STATE_EVENTS))
    .group_by(schema.audit_events.c.export_id)
)
_LAST_EVENTS = select(schema.audit_events.c.export_id, schema.audit_events.c.event).where(
    schema.audit_events.c.id.in_(_LAST)
)
_FREE_CLAIMS = delete(schema.claims).where(schema.claims.c.export_id == bindparam("of_export"))


@lru_cache
def _change_from(states: frozenset[ExportState], *, unless_renewed: bool = False) -> ReturningUpdate[Any]:
    """An update of one export that is in one of the states."""
    table = schema.exports.c
    statement = _from_states(states)
    if unless_renewed:
        statement = statement.where(table.expires_boottime == bindparam("read_expiry"))
    return statement.returning(table.id.label("export_id"), table.node, table.disk_id, table.holder)


def _from_states(states: Collection[ExportState]) -> Update:
    table = schema.exports.c
    is_in_one = or_(*(table.state == state.value for state in states))
    return update(schema.exports).where(table.id == bindparam("of_export")).where(is_in_one)


_READY = _from_states({ExportState.ATTACHING}).returning(schema.exports)
_FORCE = _change_from(frozenset({ExportState.CLOSING})).where(not_(schema.exports.c.is_forced))


class Store:
    """The one place that reads and writes the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._read = database.read
        self._write = database.write
        self._clock = clock
        self._unordered_until: dict[tuple[str, str], float] = {}

    @classmethod
    def open(cls, url: str, clock: Clock) -> Self:
        """Connects, and migrates to this version's schema. Raises StoreUnavailable, ConfigurationError."""
        return cls(Database.open(url), clock)

    def close(self) -> None:
        self._database.close()

    @property
    def write_failure(self) -> StoreUnavailable | None:
        """Why the last write failed; None once one has succeeded again."""
        return self._database.write_failure

    # Exports

    def claim(self, record: ExportRecord, idempotency_key: str | None = None, digest: str = "") -> ExportRecord:
        """Checks for an operator's orders and for conflicts, and writes the claim, in one transaction.

        Returns the earlier export if the key was used for the same request. Raises ProviderPaused, NodeDraining,
        AccessConflict naming the holder, IdempotencyMismatch.
        """
        with self._write() as connection:
            wanted = claims_of(record)
            orders = [_pausing(record.disk.id.provider), _draining(record.node)]
            self._database.lock(connection, orders, shared=True)
            self._database.lock(connection, [*wanted, *([idempotency_key] if idempotency_key else [])])
            if idempotency_key and (earlier := _replayed(connection, idempotency_key, digest)):
                return earlier
            _refuse_ordered(connection, record.disk.id.provider, record.node)
            _refuse_conflict(connection, record, wanted)
            connection.execute(_INSERT_EXPORT, export_row(record))
            connection.execute(
                _INSERT_CLAIM,
                [
                    {"export_id": record.id, "canonical_id": disk, "is_exclusive": exclusive}
                    for disk, exclusive in wanted.items()
                ],
            )
            if idempotency_key:
                connection.execute(
                    insert(schema.idempotency_keys).values(key=idempotency_key, digest=digest, export_id=record.id)
                )
            audit.add(
                connection,
                "export.claimed",
                record.created_at,
                record.access,
                node=record.node,
                disk_id=str(record.disk.id),
                export_id=record.id,
                holder=record.holder,
            )
        return record

    def refuse_ordered(self, provider: str, node: str) -> None:
        """Raises ProviderPaused or NodeDraining if a claim would be refused by an operator's order.

        That there is none is good for a second: `claim` looks again.
        """
        now = self._clock.boottime()
        if now < self._unordered_until.get((provider, node), 0.0):
            return
        with self._read() as connection:
            _refuse_ordered(connection, provider, node)
        self._unordered_until[provider, node] = now + _UNORDERED_SECONDS

    def refuse_conflict(self, record: ExportRecord) -> None:
        """Raises AccessConflict if the claim would be refused now."""
        with self._read() as connection:
            _refuse_conflict(connection, record, claims_of(record))

    def replayed(self, idempotency_key: str, digest: str) -> ExportRecord | None:
        """The export that the key made before. Raises IdempotencyMismatch."""
        with self._read() as connection:
            return _replayed(connection, idempotency_key, digest)

    def export(self, export_id: str) -> ExportRecord:
        """Raises ExportNotFound."""
        with self._read() as connection:
            return _export(connection, export_id)

    def exports(self, wanted: ExportFilter, page: str | None, limit: int) -> Page[ExportRecord]:
        """Newest first. The page token is the last id of the page before."""
        table = schema.exports
        query = select(table).order_by(table.c.id.desc()).limit(limit + 1)
        for column, value in (
            (table.c.disk_id, wanted.disk),
            (table.c.holder, wanted.holder),
            (table.c.node, wanted.node),
            (table.c.access, wanted.access),
        ):
            if value:
                query = query.where(column == value)
        if wanted.states:
            query = query.where(table.c.state.in_([state.value for state in wanted.states]))
        if page:
            query = query.where(table.c.id < page)
        with self._read() as connection:
            rows = [export_record(row) for row in connection.execute(query).mappings()]
        return Page(tuple(rows[:limit]), rows[limit - 1].id if len(rows) > limit else None)

    def claiming_exports(self, node: str, canonical_id: str | None = None) -> list[ExportRecord]:
        """The node's exports that are not over, of one disk or of all."""
        table = schema.exports
        query = select(table).where(table.c.node == node, table.c.state.in_([s.value for s in CLAIMING_STATES]))
        if canonical_id is not None:
            query = query.where(table.c.canonical_id == canonical_id)
        with self._read() as connection:
            return [export_record(row) for row in connection.execute(query.order_by(table.c.id)).mappings()]

    def active_disks(self, node: str) -> set[str]:
        """Canonical ids of the disks that the node has exports or an attachment of."""
        table = schema.exports
        with self._read() as connection:
            exported = connection.execute(
                select(table.c.canonical_id)
                .distinct()
                .where(table.c.node == node, table.c.state.in_([s.value for s in CLAIMING_STATES]))
            ).scalars()
            attached = connection.execute(
                select(schema.attachments.c.canonical_id).where(schema.attachments.c.node == node)
            ).scalars()
            return {*exported, *attached}

    def renew(self, export_id: str, expires_at: datetime, expires_boottime: float) -> bool:
        """False if the export is not live any more."""
        return self._change(
            export_id,
            LIVE_STATES,
            "export.renewed",
            f"until {expires_at.isoformat()}",
            expires_at=expires_at,
            expires_boottime=expires_boottime,
        )

    def rebase(self, record: ExportRecord, life_left: timedelta) -> None:
        """Moves an export's deadlines to the clocks of this boot."""
        boottime = self._clock.boottime()
        self._change(
            record.id,
            CLAIMING_STATES,
            "export.rebased",
            "after a reboot",
            boot_id=self._clock.boot_id,
            expires_at=self._clock.now() + life_left,
            expires_boottime=boottime + life_left.total_seconds(),
            unready_boottime=boottime,
            closing_boottime=None if record.closing_boottime is None else boottime,
        )

    def start_closing(self, export_id: str, why: str) -> bool:
        """False if it was closing or over already."""
        return self._change(
            export_id,
            LIVE_STATES,
            "export.closing",
            why,
            state=ExportState.CLOSING,
            closing_boottime=self._clock.boottime(),
        )

    def force_closing(self, export_id: str, by: str, reason: str) -> bool:
        """Closing without a grace period, also where it is closing already. False if it is over, or forced before."""
        at = self._clock.now()
        with self._write() as connection:
            key = {"of_export": export_id}
            begins = key | {"state": ExportState.CLOSING.value, "closing_boottime": self._clock.boottime()}
            if closing := connection.execute(_change_from(LIVE_STATES), begins).one_or_none():
                audit.add(connection, "export.closing", at, "force-released", **closing._mapping)
            forced = connection.execute(_FORCE, key | {"is_forced": True}).one_or_none()
            if forced:
                audit.add(connection, "export.force-released", at, reason, ordered_by=by or None, **forced._mapping)
        return forced is not None

    def expire(self, record: ExportRecord) -> bool:
        """As `start_closing`, unless it was renewed since the record was read."""
        return self._change(
            record.id,
            LIVE_STATES,
            "export.closing",
            "expired",
            read_expiry=record.expires_boottime,
            state=ExportState.CLOSING,
            closing_boottime=self._clock.boottime(),
        )

    def set_attaching(self, starts: Iterable[Start]) -> frozenset[str]:
        """Before the servers are started, all in one transaction. Returns the ids of those that are still live."""
        statement = _change_from(LIVE_STATES)
        with self._write() as connection:
            return frozenset(
                start.export_id
                for start in starts
                if connection.execute(statement, _attaching(start)).one_or_none() is not None
            )

    def set_ready(self, export_id: str, server: ServerProcess, size_bytes: int, format: str) -> ExportRecord | None:
        """The export as it is then. None if it is not wanted any more."""
        ready = {"state": ExportState.READY.value, "server": server, "size_bytes": size_bytes, "format": format}
        with self._write() as connection:
            row = connection.execute(_READY, {"of_export": export_id, "error": None} | ready).mappings().one_or_none()
            if row is None:
                return None
            record = export_record(row)
            who = {"node": record.node, "disk_id": row["disk_id"], "export_id": record.id, "holder": record.holder}
            audit.add(connection, "export.ready", self._clock.now(), "", **who)
        return record

    def set_error(self, export_id: str, problem: Problem, unready_boottime: float) -> bool:
        """Keeps the last error of an export that is being retried."""
        return self._change(
            export_id,
            LIVE_STATES,
            "",
            "",
            state=ExportState.ATTACHING,
            error=problem,
            unready_boottime=unready_boottime,
        )

    def show(self, export_id: str, problem: Problem | None) -> bool:
        """Keeps what was noticed of an export that goes on being served; None: that all is well again."""
        return self._change(export_id, {ExportState.READY}, "", "", error=problem)

    def set_over(self, export_id: str, state: ExportState, problem: Problem | None = None) -> bool:
        """Closed or failed: the claims go with the same transaction."""
        changes: dict[str, Any] = {
            "state": state,
            "server": None,
            "over_at": self._clock.now(),
            "boot_id": self._clock.boot_id,
            "over_boottime": self._clock.boottime(),
        }
        if problem:
            changes["error"] = problem
        return self._change(
            export_id,
            CLAIMING_STATES,
            f"export.{state}",
            problem.detail if problem else "",
            frees_claims=True,
            **changes,
        )

    def prune(self, node: str, keep_seconds: float) -> int:
        """Forgets the node's exports that have been over for so long. Their audit events stay.

        The boot clock decides. The wall clock is asked once after a reboot, how long they had been over by then.
        """
        table = schema.exports.c
        over = and_(table.node == node, table.state.in_([s.value for s in OVER_STATES]))
        with self._write() as connection:
            self._rebase_over(connection, over)
            forgotten = and_(over, table.over_boottime <= self._clock.boottime() - keep_seconds)
            return connection.execute(delete(schema.exports).where(forgotten)).rowcount

    # Attachments

    def attachment(self, node: str, canonical_id: str) -> AttachmentRecord | None:
        with self._read() as connection:
            key = {"on_node": node, "of_disk": canonical_id}
            row = connection.execute(_ATTACHMENT, key).mappings().one_or_none()
        return attachment_record(row) if row else None

    def attachments(self) -> list[AttachmentRecord]:
        table = schema.attachments
        with self._read() as connection:
            rows = connection.execute(select(table).order_by(table.c.node, table.c.canonical_id)).mappings()
            return [attachment_record(row) for row in rows]

    def plan_attachment(self, node: str, plan: AttachPlan, state: AttachmentState) -> AttachmentRecord:
        """Commits a plan: from here on, what it describes is ours (unless the disk was attached already)."""
        at = self._clock.now()
        record = AttachmentRecord(node, plan, state, at)
        with self._write() as connection:
            connection.execute(
                insert(schema.attachments).values(
                    node=node, canonical_id=plan.disk.canonical_id, plan=plan, state=state.value, since=at
                )
            )
            audit.about_disk(connection, node, plan.disk, f"attachment.{state}", at, plan.slot)
        return record

    def set_attachment(
        self, record: AttachmentRecord, state: AttachmentState, problem: Problem | None = None
    ) -> AttachmentRecord:
        at = self._clock.now()
        with self._write() as connection:
            connection.execute(
                update(schema.attachments)
                .where(_is_attachment(record))
                .values(state=state.value, since=at, error=problem)
            )
            if state != record.state:
                detail = problem.detail if problem else record.plan.slot
                audit.about_disk(connection, record.node, record.plan.disk, f"attachment.{state}", at, detail)
        return replace(record, state=state, since=at, error=problem)

    def set_idle(self, record: AttachmentRecord, idle_boottime: float | None) -> None:
        """Notes when the last export ended, or with None that there is one again."""
        with self._write() as connection:
            connection.execute(
                update(schema.attachments)
                .where(_is_attachment(record))
                .values(boot_id=self._clock.boot_id, idle_boottime=idle_boottime)
            )

    def forget_attachment(self, record: AttachmentRecord) -> None:
        with self._write() as connection:
            connection.execute(delete(schema.attachments).where(_is_attachment(record)))
            event_name = "attachment.detached" if record.is_ours else "attachment.left"
            audit.about_disk(connection, record.node, record.plan.disk, event_name, self._clock.now(), record.plan.slot)

    # An operator's orders

    def pause(self, provider: str, order: Order, node: str) -> None:
        """No claim on its disks is committed from now on. A provider that is paused keeps the first order.

        `node` is where the order was given.
        """
        with self._write() as connection:
            self._database.lock(connection, [_pausing(provider)])
            if connection.execute(_PAUSE, {"of_provider": provider}).scalar_one_or_none() is None:
                connection.execute(insert(schema.pauses).values(provider=provider, pause=order))
                audit.about_order(connection, "provider.paused", order, node, provider)

    def resume(self, provider: str, order: Order, node: str) -> None:
        """Ends a pause, if there is one."""
        with self._write() as connection:
            self._database.lock(connection, [_pausing(provider)])
            ended = connection.execute(delete(schema.pauses).where(schema.pauses.c.provider == provider))
            if ended.rowcount:
                audit.about_order(connection, "provider.resumed", order, node, provider)

    def pauses(self) -> dict[str, Order]:
        """By provider."""
        with self._read() as connection:
            return {row.provider: row.pause for row in connection.execute(select(schema.pauses))}

    def drain(self, node: str, order: Order) -> None:
        """No claim of the node is committed from now on. One that is draining keeps the first order.

        Raises NodeNotFound.
        """
        self._set_drain(node, order, "node.draining", order)

    def undrain(self, node: str, order: Order) -> None:
        """Ends a drain, if there is one. Raises NodeNotFound."""
        self._set_drain(node, None, "node.undrained", order)

    def is_draining(self, node: str) -> bool:
        with self._read() as connection:
            return connection.execute(_DRAIN, {"on_node": node}).scalar_one_or_none() is not None

    def _set_drain(self, node: str, drain: Order | None, event_name: str, order: Order) -> None:
        with self._write() as connection:
            self._database.lock(connection, [_draining(node)])
            found = connection.execute(_DRAIN, {"on_node": node}).one_or_none()
            if found is None:
                known = ", ".join(
                    connection.execute(select(schema.nodes.c.name).order_by(schema.nodes.c.name)).scalars()
                )
                raise NodeNotFound(f"There is no node {node!a}. Nodes that use this store: {known or 'none'}.")
            if (found.drain is None) != (drain is None):
                connection.execute(update(schema.nodes).where(schema.nodes.c.name == node).values(drain=drain))
                audit.about_order(connection, event_name, order, node)

    # Nodes and the audit trail

    def rename_node(self, former: str, name: str) -> None:
        """What is the node's stays the node's. Raises ConfigurationError when the new name is another node's."""
        tables = (schema.exports, schema.attachments, schema.nodes)
        with self._write() as connection:
            known = set(connection.execute(select(schema.nodes.c.name)).scalars())
            if former not in known:
                return  # it was renamed already, and the note of that was lost
            if name in known:
                raise ConfigurationError(
                    f"server.node: this machine was called {former}, and the store knows another node as {name}. "
                    "Give this one a name of its own."
                )
            for table in tables:
                column = table.c.name if table is schema.nodes else table.c.node
                connection.execute(update(table).where(column == former).values({column.name: name}))

    def node_started(self, name: str) -> None:
        """An order to drain it stands."""
        at = self._clock.now()
        started = {"boot_id": self._clock.boot_id, "started_at": at, "seen_at": at}
        with self._write() as connection:
            known = connection.execute(update(schema.nodes).where(schema.nodes.c.name == name).values(started))
            if not known.rowcount:
                connection.execute(insert(schema.nodes).values(name=name, **started))

    def node_seen(self, name: str) -> None:
        with self._write() as connection:
            connection.execute(
                update(schema.nodes).where(schema.nodes.c.name == name).values(seen_at=self._clock.now())
            )

    def nodes(self) -> list[NodeRecord]:
        with self._read() as connection:
            return [NodeRecord(**row) for row in connection.execute(_NODES).mappings()]

    def audit(self, page: str | None, limit: int, export_id: str = "") -> Page[AuditEvent]:
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

    def export_counts(self) -> dict[tuple[ExportState, Access], int]:
        """How many exports there are, by state and access."""
        table = schema.exports
        query = select(table.c.state, table.c.access, func.count()).group_by(table.c.state, table.c.access)
        with self._read() as connection:
            return {(ExportState(s), Access(a)): count for s, a, count in connection.execute(query)}

    # The whole of it

    def contents(self) -> Contents:
        """Everything as of one moment, for whoever checks it."""
        with self._database.snapshot() as connection:
            exports = connection.execute(select(schema.exports).order_by(schema.exports.c.id)).mappings().all()
            attachments = connection.execute(select(schema.attachments)).mappings().all()
            claims = connection.execute(select(schema.claims)).mappings().all()
            events = {row.export_id: row.event for row in connection.execute(_LAST_EVENTS)}
            return Contents(
                tuple(map(export_record, exports)),
                tuple(Claim(**row) for row in claims),
                tuple(map(attachment_record, attachments)),
                events,
                (*filter(None, map(misfiled_export, exports)), *filter(None, map(misfiled_attachment, attachments))),
            )

    def disown(self, node: str, why: str) -> list[AttachmentRecord]:
        """From now on no attachment is ours. Returns those that were, or were about to be."""
        ours = [record for record in self.attachments() if record.is_ours]
        at = self._clock.now()
        with self._write() as connection:
            audit.add(connection, "store.restored", at, why, node=node, disk_id="")
            for record in ours:
                foreign = {"state": AttachmentState.FOREIGN.value, "since": at}
                connection.execute(update(schema.attachments).where(_is_attachment(record)).values(foreign))
                audit.about_disk(connection, record.node, record.plan.disk, "attachment.foreign", at, why)
        return ours

    # Inside

    def _rebase_over(self, connection: Connection, over: ColumnElement[bool]) -> None:
        """Moves the ends of exports to the clock of this boot."""
        table = schema.exports.c
        now, boottime = self._clock.now(), self._clock.boottime()
        moved = or_(table.boot_id != self._clock.boot_id, table.over_boottime.is_(None))
        for row in connection.execute(select(table.id, table.over_at).where(over, moved)).all():
            ago = max(0.0, (now - (row.over_at or now)).total_seconds())
            changes = {"boot_id": self._clock.boot_id, "over_boottime": boottime - ago}
            connection.execute(update(schema.exports).where(table.id == row.id).values(changes))

    def _change(
        self,
        export_id: str,
        states: Collection[ExportState],
        event_name: str,
        detail: str,
        *,
        frees_claims: bool = False,
        read_expiry: float | None = None,
        **changes: Any,
    ) -> bool:
        """One guarded update of an export, with its audit event. False if it was in none of the states.

        With `read_expiry`, False also if it expires at another time by now.
        """
        if isinstance(state := changes.get("state"), ExportState):
            changes["state"] = state.value
        with self._write() as connection:
            statement = _change_from(frozenset(states), unless_renewed=read_expiry is not None)
            key = {"of_export": export_id} | ({} if read_expiry is None else {"read_expiry": read_expiry})
            changed = connection.execute(statement, key | changes).one_or_none()
            if changed and frees_claims:
                connection.execute(_FREE_CLAIMS, {"of_export": export_id})
            if changed and event_name:
                audit.add(connection, event_name, self._clock.now(), detail, **changed._mapping)
        return changed is not None


def _attaching(start: Start) -> dict[str, Any]:
    return {
        "of_export": start.export_id,
        "state": ExportState.ATTACHING.value,
        "port": start.port,
        "unready_boottime": start.unready_boottime,
    }


def _event_id(page: str) -> int:
    if not (page.isascii() and page.isdecimal() and len(page) <= 18):
        raise InvalidRequest("The page token is not one that this list gave. Start again without it.")
    return int(page)


def _refuse_conflict(connection: Connection, record: ExportRecord, wanted: dict[str, bool]) -> None:
    for disk, is_exclusive in wanted.items():
        key = {"of_disk": disk, "is_exclusive": is_exclusive}
        if standing := connection.execute(_STANDING, key).mappings().one_or_none():
            raise _conflict(record, export_record(standing))


def _pausing(provider: str) -> str:
    """What is locked by who claims a disk of the provider, and by who pauses it."""
    return f"provider {provider}"


def _draining(node: str) -> str:
    return f"node {node}"


def _refuse_ordered(connection: Connection, provider: str, node: str) -> None:
    orders = connection.execute(_ORDERS, {"of_provider": provider, "on_node": node}).one()
    if orders.pause:
        raise ProviderPaused(
            f"Provider {provider} is paused {orders.pause}. It makes no new exports until an operator resumes it; "
            "those that it has go on."
        )
    if orders.drain:
        raise NodeDraining(
            f"Node {node} is being drained {orders.drain}. It takes no new exports; those that it has go on. "
            "Ask another node, or wait until an operator undrains it."
        )


def _conflict(wanted: ExportRecord, standing: ExportRecord) -> AccessConflict:
    until = standing.expires_at.isoformat(timespec="seconds")
    return AccessConflict(
        f"{standing.disk.id} is claimed {standing.access} by {standing.holder} (export {standing.id}, until {until}), "
        f"which excludes {wanted.access} access to {wanted.disk.id}. Wait, or ask {standing.holder} to release it.",
        holder=standing.holder,
    )


def _replayed(connection: Connection, key: str, digest: str) -> ExportRecord | None:
    table = schema.idempotency_keys
    row = connection.execute(select(table.c.digest, table.c.export_id).where(table.c.key == key)).one_or_none()
    if row is None:
        return None
    if row.digest != digest:
        raise IdempotencyMismatch("This Idempotency-Key was used for another request. Use a new key for a new request.")
    return _export(connection, row.export_id)


def _export(connection: Connection, export_id: str) -> ExportRecord:
    row = connection.execute(_EXPORT, {"of_export": export_id}).mappings().one_or_none()
    if row is None:
        raise ExportNotFound(f"There is no export {export_id!a}. It may have ended long ago, or never existed.")
    return export_record(row)


def _is_attachment(record: AttachmentRecord) -> Any:
    table = schema.attachments
    return and_(table.c.node == record.node, table.c.canonical_id == record.plan.disk.canonical_id)
