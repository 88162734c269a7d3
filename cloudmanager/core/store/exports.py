"""Exports, from the claim until they are forgotten."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    and_,
    bindparam,
    delete,
    func,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import ExportNotFound
from cloudmanager.core.model import CLAIMING_STATES, LIVE_STATES, OVER_STATES, Access, Disk, ExportState, Page, Problem
from cloudmanager.core.records import ExportFilter, ExportRecord, ServerProcess, Start
from cloudmanager.core.store import schema, trail
from cloudmanager.core.store.database import Database
from cloudmanager.core.store.rows import export_record

# Statements of the hot paths, built once: building one costs more than SQLite takes to run it.
_EXPORT = select(schema.exports).where(schema.exports.c.id == bindparam("of_export"))
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


class ExportTable:
    """Every method is one transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._read = database.read
        self._write = database.write
        self._clock = clock

    def get(self, export_id: str) -> ExportRecord:
        """Raises ExportNotFound."""
        with self._read() as connection:
            return read_export(connection, export_id)

    def page(self, wanted: ExportFilter, page: str | None, limit: int) -> Page[ExportRecord]:
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

    def claiming(self, node: str, canonical_id: str | None = None) -> list[ExportRecord]:
        """The node's exports that are not over, of one disk or of all."""
        table = schema.exports
        query = select(table).where(table.c.node == node, table.c.state.in_([s.value for s in CLAIMING_STATES]))
        if canonical_id is not None:
            query = query.where(table.c.canonical_id == canonical_id)
        with self._read() as connection:
            return [export_record(row) for row in connection.execute(query.order_by(table.c.id)).mappings()]

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

    def rebase(self, record: ExportRecord, lifetime_left: timedelta) -> None:
        """Moves an export's deadlines to the clocks of this boot."""
        boottime = self._clock.boottime()
        self._change(
            record.id,
            CLAIMING_STATES,
            "export.rebased",
            "after a reboot",
            boot_id=self._clock.boot_id,
            expires_at=self._clock.now() + lifetime_left,
            expires_boottime=boottime + lifetime_left.total_seconds(),
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
                trail.add(connection, "export.closing", at, "force-released", **closing._mapping)
            forced = connection.execute(_FORCE, key | {"is_forced": True}).one_or_none()
            if forced:
                trail.add(connection, "export.force-released", at, reason, ordered_by=by or None, **forced._mapping)
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

    def begin_attaching(self, export_ids: Sequence[str]) -> None:
        """Those of the exports that are still pending: their disk is being attached, which may take its time."""
        if export_ids:
            table = schema.exports
            attaching = update(table).where(table.c.id.in_(export_ids), table.c.state == ExportState.PENDING.value)
            with self._write() as connection:
                connection.execute(attaching.values(state=ExportState.ATTACHING.value))

    def set_attaching(self, starts: Iterable[Start]) -> frozenset[str]:
        """Before the servers are started, all in one transaction. Returns the ids of those that are still live."""
        statement = _change_from(LIVE_STATES)
        with self._write() as connection:
            return frozenset(
                start.export_id
                for start in starts
                if connection.execute(statement, _attaching(start)).one_or_none() is not None
            )

    def set_ready(
        self, export_id: str, server: ServerProcess, size_bytes: int, format: str, disk: Disk | None = None
    ) -> ExportRecord | None:
        """The export as it is then. None if it is not wanted any more. `disk`: what was learned of it meanwhile."""
        ready = {"state": ExportState.READY.value, "server": server, "size_bytes": size_bytes, "format": format}
        learned = {} if disk is None else {"disk": disk}
        with self._write() as connection:
            row = (
                connection.execute(_READY, {"of_export": export_id, "error": None} | ready | learned)
                .mappings()
                .one_or_none()
            )
            if row is None:
                return None
            record = export_record(row)
            who = {"node": record.node, "disk_id": row["disk_id"], "export_id": record.id, "holder": record.holder}
            trail.add(connection, "export.ready", self._clock.now(), "", **who)
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

    def counts(self) -> dict[tuple[ExportState, Access], int]:
        """How many exports there are, by state and access."""
        table = schema.exports
        query = select(table.c.state, table.c.access, func.count()).group_by(table.c.state, table.c.access)
        with self._read() as connection:
            return {(ExportState(s), Access(a)): count for s, a, count in connection.execute(query)}

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
                trail.add(connection, event_name, self._clock.now(), detail, **changed._mapping)
        return changed is not None


def _attaching(start: Start) -> dict[str, Any]:
    return {
        "of_export": start.export_id,
        "state": ExportState.ATTACHING.value,
        "port": start.port,
        "unready_boottime": start.unready_boottime,
    }


def read_export(connection: Connection, export_id: str) -> ExportRecord:
    """Raises ExportNotFound."""
    row = connection.execute(_EXPORT, {"of_export": export_id}).mappings().one_or_none()
    if row is None:
        raise ExportNotFound(f"There is no export {export_id!a}. It may have ended long ago, or never existed.")
    return export_record(row)
