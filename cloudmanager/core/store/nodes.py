"""The machines that use the store."""

from sqlalchemy import Connection, RowMapping, func, insert, select, text, update

from cloudmanager.core.clock import Clock
from cloudmanager.core.model import CLAIMING_STATES
from cloudmanager.core.records import NodeHolder, NodeRecord
from cloudmanager.core.store import schema
from cloudmanager.core.store.database import Database

_SHOWN = ("name", "boot_id", "started_at", "seen_at", "drain")
_NODES = select(
    *(schema.nodes.c[name] for name in _SHOWN),
    select(func.count())
    .where(schema.exports.c.node == schema.nodes.c.name)
    .where(schema.exports.c.state.in_([state.value for state in CLAIMING_STATES]))
    .scalar_subquery()
    .label("exports"),
    select(func.count()).where(schema.attachments.c.node == schema.nodes.c.name).scalar_subquery().label("attachments"),
).order_by(schema.nodes.c.name)

_SERVER_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())")


class NodeTable:
    """Every method is one transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._read = database.read
        self._write = database.write
        self._clock = clock

    def begin_session(
        self, name: str, session: str, identity: str, machine: str, lifetime_seconds: float
    ) -> NodeHolder | None:
        """Takes the name of a node for a service, unless another live one has it, which it returns. Drains stay.

        Of the service's own identity, in the same boot of its machine, an earlier session is over.
        """
        with self._write() as connection:
            self._database.lock(connection, [f"cloudmanager node {name}"])
            now = self._now(connection)
            row = connection.execute(select(schema.nodes).where(schema.nodes.c.name == name)).mappings().one_or_none()
            if row and self._is_live(row, now) and (row["identity"], row["boot_id"]) != (identity, self._clock.boot_id):
                return _holder(row, now)
            at = self._clock.now()
            begun = {
                "boot_id": self._clock.boot_id,
                "started_at": at,
                "seen_at": at,
                "identity": identity,
                "machine": machine,
                "session": session,
                "alive_until": now + lifetime_seconds,
            }
            if row:
                connection.execute(update(schema.nodes).where(schema.nodes.c.name == name).values(begun))
            else:
                connection.execute(insert(schema.nodes).values(name=name, **begun))
        return None

    def renew_session(self, name: str, session: str, lifetime_seconds: float) -> NodeHolder | None:
        """Returns the holder of the name if that is another session; one without a machine if the name is free."""
        with self._write() as connection:
            now = self._now(connection)
            renewed = connection.execute(
                update(schema.nodes)
                .where(schema.nodes.c.name == name, schema.nodes.c.session == session)
                .values(alive_until=now + lifetime_seconds, seen_at=self._clock.now())
            )
            if renewed.rowcount:
                return None
            row = connection.execute(select(schema.nodes).where(schema.nodes.c.name == name)).mappings().one_or_none()
            return _holder(row, now) if row else NodeHolder("", "", self._clock.now(), 0.0, 0.0)

    def end_session(self, name: str, session: str) -> None:
        """The name is free, unless it is another session's by now."""
        with self._write() as connection:
            is_ours = (schema.nodes.c.name == name, schema.nodes.c.session == session)
            connection.execute(update(schema.nodes).where(*is_ours).values(alive_until=None))

    def _is_live(self, row: RowMapping, now: float) -> bool:
        """On SQLite, one machine has the store: what an earlier boot of it has left is dead."""
        if self._database.is_sqlite and row["boot_id"] != self._clock.boot_id:
            return False
        return row["alive_until"] is not None and now < row["alive_until"]

    def _now(self, connection: Connection) -> float:
        """The clock that all services on the store have in common, in seconds."""
        if self._database.is_sqlite:
            return self._clock.boottime()
        return float(connection.execute(_SERVER_CLOCK).scalar_one())

    def seen(self, name: str) -> None:
        with self._write() as connection:
            connection.execute(
                update(schema.nodes).where(schema.nodes.c.name == name).values(seen_at=self._clock.now())
            )

    def all(self) -> list[NodeRecord]:
        with self._read() as connection:
            return [NodeRecord(**row) for row in connection.execute(_NODES).mappings()]


def _holder(row: RowMapping, now: float) -> NodeHolder:
    until = row["alive_until"] or 0.0
    return NodeHolder(row["identity"] or "", row["machine"] or "", row["started_at"], until, max(0.0, until - now))
