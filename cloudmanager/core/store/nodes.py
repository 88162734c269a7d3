"""The machines that use the store."""

from sqlalchemy import func, insert, select, update

from cloudmanager.core.clock import Clock
from cloudmanager.core.model import CLAIMING_STATES
from cloudmanager.core.records import NodeRecord
from cloudmanager.core.store import schema
from cloudmanager.core.store.database import Database

_NODES = select(
    schema.nodes,
    select(func.count())
    .where(schema.exports.c.node == schema.nodes.c.name)
    .where(schema.exports.c.state.in_([state.value for state in CLAIMING_STATES]))
    .scalar_subquery()
    .label("exports"),
    select(func.count()).where(schema.attachments.c.node == schema.nodes.c.name).scalar_subquery().label("attachments"),
).order_by(schema.nodes.c.name)


class NodeTable:
    """Every method is one transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._read = database.read
        self._write = database.write
        self._clock = clock

    def started(self, name: str) -> None:
        """An order to drain it stands."""
        at = self._clock.now()
        started = {"boot_id": self._clock.boot_id, "started_at": at, "seen_at": at}
        with self._write() as connection:
            known = connection.execute(update(schema.nodes).where(schema.nodes.c.name == name).values(started))
            if not known.rowcount:
                connection.execute(insert(schema.nodes).values(name=name, **started))

    def seen(self, name: str) -> None:
        with self._write() as connection:
            connection.execute(
                update(schema.nodes).where(schema.nodes.c.name == name).values(seen_at=self._clock.now())
            )

    def all(self) -> list[NodeRecord]:
        with self._read() as connection:
            return [NodeRecord(**row) for row in connection.execute(_NODES).mappings()]
