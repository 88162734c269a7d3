"""Maintenance actions: paused providers and drained nodes."""

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from cloudmanager.core.errors import NodeDraining, NodeNotFound, ProviderPaused
from cloudmanager.core.records import MaintenanceAction
from cloudmanager.core.store import schema, trail
from cloudmanager.core.store.database import Database

_PAUSE = select(schema.pauses.c.pause).where(schema.pauses.c.provider == bindparam("of_provider"))
_DRAIN = select(schema.nodes.c.drain).where(schema.nodes.c.name == bindparam("on_node"))
_PAUSE_AND_DRAIN = select(_PAUSE.scalar_subquery().label("pause"), _DRAIN.scalar_subquery().label("drain"))
_UNHINDERED_SECONDS = 1.0


class MaintenanceTable:
    """Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._read = database.read
        self._write = database.write
        self._unhindered_until: dict[tuple[str, str], float] = {}

    def refuse(self, provider: str, node: str, now: float) -> None:
        """Raises ProviderPaused or NodeDraining if a claim is refused by an operator's action.

        That there is none is remembered for a second from `now` (boot clock): the claim itself looks again.
        """
        if now < self._unhindered_until.get((provider, node), 0.0):
            return
        with self._read() as connection:
            refuse_claims(connection, provider, node)
        self._unhindered_until[provider, node] = now + _UNHINDERED_SECONDS

    def pause(self, provider: str, action: MaintenanceAction, node: str) -> None:
        """No claim on its disks is committed from now on. A provider that is paused keeps the first action.

        `node` is where the operator did it.
        """
        with self._write() as connection:
            self._database.lock(connection, [pausing(provider)])
            if connection.execute(_PAUSE, {"of_provider": provider}).scalar_one_or_none() is None:
                connection.execute(insert(schema.pauses).values(provider=provider, pause=action))
                trail.about_maintenance(connection, "provider.paused", action, node, provider)

    def resume(self, provider: str, action: MaintenanceAction, node: str) -> None:
        """Ends a pause, if there is one."""
        with self._write() as connection:
            self._database.lock(connection, [pausing(provider)])
            ended = connection.execute(delete(schema.pauses).where(schema.pauses.c.provider == provider))
            if ended.rowcount:
                trail.about_maintenance(connection, "provider.resumed", action, node, provider)

    def pauses(self) -> dict[str, MaintenanceAction]:
        """By provider."""
        with self._read() as connection:
            return {row.provider: row.pause for row in connection.execute(select(schema.pauses))}

    def drain(self, node: str, action: MaintenanceAction) -> None:
        """No claim of the node is committed from now on. One that is draining keeps the first action.

        Raises NodeNotFound.
        """
        self._set_drain(node, action, "node.draining", action)

    def undrain(self, node: str, action: MaintenanceAction) -> None:
        """Ends a drain, if there is one. Raises NodeNotFound."""
        self._set_drain(node, None, "node.undrained", action)

    def is_draining(self, node: str) -> bool:
        with self._read() as connection:
            return connection.execute(_DRAIN, {"on_node": node}).scalar_one_or_none() is not None

    def _set_drain(
        self, node: str, drain: MaintenanceAction | None, event_name: str, action: MaintenanceAction
    ) -> None:
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
                trail.about_maintenance(connection, event_name, action, node)


def pausing(provider: str) -> str:
    """The lock that a claim on the provider's disks holds shared, and a pause exclusively."""
    return f"provider {provider}"


def draining(node: str) -> str:
    return f"node {node}"


def refuse_claims(connection: Connection, provider: str, node: str) -> None:
    found = connection.execute(_PAUSE_AND_DRAIN, {"of_provider": provider, "on_node": node}).one()
    if found.pause:
        raise ProviderPaused(
            f"Provider {provider} is paused {found.pause}. It makes no new exports until an operator resumes it; "
            "those that it has go on."
        )
    if found.drain:
        raise NodeDraining(
            f"Node {node} is being drained {found.drain}. It takes no new exports; those that it has go on. "
            "Ask another node, or wait until an operator undrains it."
        )
