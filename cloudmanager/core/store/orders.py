"""An operator's orders: providers that are paused, nodes that are drained."""

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import NodeDraining, NodeNotFound, ProviderPaused
from cloudmanager.core.records import Order
from cloudmanager.core.store import schema, trail
from cloudmanager.core.store.database import Database

_PAUSE = select(schema.pauses.c.pause).where(schema.pauses.c.provider == bindparam("of_provider"))
_DRAIN = select(schema.nodes.c.drain).where(schema.nodes.c.name == bindparam("on_node"))
_ORDERS = select(_PAUSE.scalar_subquery().label("pause"), _DRAIN.scalar_subquery().label("drain"))
_UNORDERED_SECONDS = 1.0


class Orders:
    """Every method is one transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._read = database.read
        self._write = database.write
        self._clock = clock
        self._unordered_until: dict[tuple[str, str], float] = {}

    def refuse(self, provider: str, node: str) -> None:
        """Raises ProviderPaused or NodeDraining if a claim would be refused by an operator's order.

        That there is none is good for a second: the claim itself looks again.
        """
        now = self._clock.boottime()
        if now < self._unordered_until.get((provider, node), 0.0):
            return
        with self._read() as connection:
            refuse_ordered(connection, provider, node)
        self._unordered_until[provider, node] = now + _UNORDERED_SECONDS

    def pause(self, provider: str, order: Order, node: str) -> None:
        """No claim on its disks is committed from now on. A provider that is paused keeps the first order.

        `node` is where the order was given.
        """
        with self._write() as connection:
            self._database.lock(connection, [pausing(provider)])
            if connection.execute(_PAUSE, {"of_provider": provider}).scalar_one_or_none() is None:
                connection.execute(insert(schema.pauses).values(provider=provider, pause=order))
                trail.about_order(connection, "provider.paused", order, node, provider)

    def resume(self, provider: str, order: Order, node: str) -> None:
        """Ends a pause, if there is one."""
        with self._write() as connection:
            self._database.lock(connection, [pausing(provider)])
            ended = connection.execute(delete(schema.pauses).where(schema.pauses.c.provider == provider))
            if ended.rowcount:
                trail.about_order(connection, "provider.resumed", order, node, provider)

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
            self._database.lock(connection, [draining(node)])
            found = connection.execute(_DRAIN, {"on_node": node}).one_or_none()
            if found is None:
                known = ", ".join(
                    connection.execute(select(schema.nodes.c.name).order_by(schema.nodes.c.name)).scalars()
                )
                raise NodeNotFound(f"There is no node {node!a}. Nodes that use this store: {known or 'none'}.")
            if (found.drain is None) != (drain is None):
                connection.execute(update(schema.nodes).where(schema.nodes.c.name == node).values(drain=drain))
                trail.about_order(connection, event_name, order, node)


def pausing(provider: str) -> str:
    """What is locked by who claims a disk of the provider, and by who pauses it."""
    return f"provider {provider}"


def draining(node: str) -> str:
    return f"node {node}"


def refuse_ordered(connection: Connection, provider: str, node: str) -> None:
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
