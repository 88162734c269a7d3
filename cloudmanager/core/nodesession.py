"""The right to a node's name: one live service at a time has it, whatever machine it runs on.

A session is a row of the store with an end, which is moved on regularly. On PostgreSQL its server's clock counts, for
all machines alike; on SQLite, which one machine has, the boot clock does. A session-level advisory lock would not do: a
pooler such as PgBouncer hands the connection on, and a machine that is cut off keeps the lock for as long as TCP likes.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable

from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import CloudManagerError, ConfigurationError, NodeDisplaced
from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.nodeidentity import NodeIdentity
from cloudmanager.core.records import NodeHolder
from cloudmanager.core.store import Store

SESSION_SECONDS = 30.0
"""After its last heartbeat; then another service may take the name."""
HEARTBEAT_SECONDS = 10.0
RETRY_SECONDS = 1.0
"""After a heartbeat that the store did not take."""
REBOOT_LOOK_SECONDS = 0.5
log = logging.getLogger(__name__)


class NodeSession:
    """This service's. Thread-safe."""

    def __init__(
        self,
        node: str,
        identity: NodeIdentity,
        store: Store,
        clock: Clock,
        *,
        session_seconds: float = SESSION_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self.session_seconds = session_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._node = node
        self.identity = identity
        self._store = store
        self._clock = clock
        self._session = secrets.token_hex(16)
        self._valid_until = 0.0
        """By the boot clock, counted from before the query: until then no other service can have the name."""
        self._lost: NodeDisplaced | None = None
        self._renewing = threading.Lock()
        self._ending = threading.Event()
        self._heart: threading.Thread | None = None

    def begin(self, wait: Callable[[float], object] = time.sleep) -> None:
        """Takes the name. Raises ConfigurationError when another live service has it.

        The same state directory on the same machine takes its own name over at once: its lock proves that the earlier
        service is dead. A reboot looks like a copy of the machine: the service waits, while the session can
        last, for a heartbeat of the other one.
        """
        seen: NodeHolder | None = None
        while (holder := self._take()) is not None:
            if holder.identity != self.identity.id or (seen and holder.alive_until != seen.alive_until):
                raise _taken(self._node, holder)
            if seen is None:
                log.warning("waiting up to %.0f s whether a copy of this machine is alive", holder.seconds_left)
            seen = holder
            wait(min(REBOOT_LOOK_SECONDS, holder.seconds_left))
        self._heart = threading.Thread(target=self._beat, name="node session", daemon=True)
        self._heart.start()

    def check(self) -> None:
        """Raises NodeDisplaced when another service now has the name.

        Asks the store only when this session may have ended: after a suspension, or while the store cannot be reached.
        """
        if self._heart is None:
            return
        if self._lost is None and self._clock.boottime() >= self._valid_until:
            self._renew()
        if self._lost is not None:
            raise self._lost

    def findings(self) -> list[Finding]:
        return [Finding("node", Severity.PROBLEM, self._lost.detail)] if self._lost else []

    def end(self) -> None:
        """The name is free at once."""
        self._ending.set()
        if self._heart is None:
            return
        self._heart.join(RETRY_SECONDS)  # it may wait for a store that does not answer
        try:
            self._store.nodes.end_session(self._node, self._session)
        except CloudManagerError as error:
            log.warning("the name %s stays taken for up to %g s: %s", self._node, self.session_seconds, error.detail)

    def _take(self) -> NodeHolder | None:
        asked_at = self._clock.boottime()
        identity = self.identity
        holder = self._store.nodes.begin_session(
            self._node, self._session, identity.id, identity.shown, self.session_seconds
        )
        if holder is None:
            self._valid_until = asked_at + self.session_seconds
        return holder

    def _beat(self) -> None:
        pause = self._heartbeat_seconds
        while not self._ending.wait(pause) and self._lost is None:
            try:
                self._renew()
                pause = self._heartbeat_seconds
            except CloudManagerError as error:
                log.warning("the session of node %s was not renewed: %s", self._node, error.detail)
                pause = RETRY_SECONDS

    def _renew(self) -> None:
        with self._renewing:
            if self._lost is not None:
                return
            asked_at = self._clock.boottime()
            holder = self._store.nodes.renew_session(self._node, self._session, self.session_seconds)
            if holder is None:
                self._valid_until = asked_at + self.session_seconds
                return
            self._lost = _displaced(self._node, holder)
            log.error("%s", self._lost.detail)


def _taken(node: str, holder: NodeHolder) -> ConfigurationError:
    since = holder.started_at.isoformat(timespec="seconds")
    return ConfigurationError(
        f"server.node: {node} is the name of a cloudmanager that runs on {holder.machine}, since {since}. Give this "
        f"one a name of its own ([server] node). If that one is gone, start again in {holder.seconds_left:.0f} s."
    )


def _displaced(node: str, holder: NodeHolder) -> NodeDisplaced:
    where = f"a cloudmanager on {holder.machine} has it" if holder.machine else "the store does not know it any more"
    return NodeDisplaced(
        f"This service has lost the name {node} while it could not be reached: {where}. It attaches, starts and "
        "detaches nothing any more; what it serves goes on. Stop it, or give it a name of its own ([server] node)."
    )
