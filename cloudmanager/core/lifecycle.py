"""The start and the end of a service: the start takes over what an earlier service left."""

import logging
import threading
import time

from cloudmanager.core import openfiles
from cloudmanager.core.attaching import Attachments
from cloudmanager.core.disklocks import DiskLocks
from cloudmanager.core.errors import CloudManagerError, SetupError
from cloudmanager.core.exports import Exports
from cloudmanager.core.nbd import Servers
from cloudmanager.core.nodesession import NodeSession
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.provider_nodes import ProviderNodes
from cloudmanager.core.reconciler import Reconciler
from cloudmanager.core.settings import Settings
from cloudmanager.core.statedir import StateDirectory
from cloudmanager.core.store import Store

LOOK_SECONDS = 0.1
log = logging.getLogger(__name__)


class Lifecycle:
    """Starts and ends the parts of a service in the right order."""

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins,
        store: Store,
        state: StateDirectory,
        locks: DiskLocks,
        servers: Servers,
        exports: Exports,
        session: NodeSession,
        provider_nodes: ProviderNodes,
        attachments: Attachments,
        reconciler: Reconciler,
        is_ending: threading.Event,
    ) -> None:
        """`is_ending` is set when nothing new is to be claimed."""
        self._settings = settings
        self._plugins = plugins
        self._store = store
        self._state = state
        self._locks = locks
        self._servers = servers
        self._exports = exports
        self._session = session
        self._provider_nodes = provider_nodes
        self._attachments = attachments
        self._reconciler = reconciler
        self._is_ending = is_ending
        self._node = settings.server.node

    def start(self) -> None:
        """Asks each provider who this machine is, adopts what an earlier service left, and begins to converge.

        A provider with a passing error is called again later, and does not delay the others. Raises final errors.
        """
        self._locks.hold_nodes(self._session.identity.related)
        kept = self._state.of_providers()
        for provider in self._plugins:
            provider.keep_in(kept)
        self._provider_nodes.learn()
        self._rename()
        self._session.begin()
        self._check_capacity()
        self._sweep()
        self._reconciler.start()

    def shut_down(self, timeout: float) -> None:
        """Refuses new exports from now on, and closes the others if the settings say so, for `timeout` seconds.

        What is left then is logged; the reconciler or the next start goes on with it.
        """
        self._is_ending.set()
        if self._settings.exports.on_shutdown != "close":
            return
        self._attachments.stop_lingering()
        deadline = time.monotonic() + timeout
        while self._release_all() and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        for left in self._left():
            log.warning("left to the next start: %s", left)

    def close(self, timeout: float) -> None:
        """Stops converging within `timeout` seconds. Exports go on being served, and the next service adopts them."""
        self._provider_nodes.close()
        for canonical_id in sorted(self._reconciler.stop(timeout)):
            log.warning("left to the next start: %s, which was still being worked on", canonical_id)
        self._exports.stop_waiting()
        self._servers.close()
        self._session.end()
        self._store.close()
        self._state.close()
        self._locks.close()

    def _rename(self) -> None:
        """A machine that has another name now keeps its exports and attachments."""
        former = self._state.node()
        if former == self._node:
            return
        if former:
            log.warning("this node was called %s and is called %s now", former, self._node)
            self._store.rename_node(former, self._node, self._session.identity.id)
        self._state.keep_node(self._node)

    def _check_capacity(self) -> None:
        """Raises SetupError where there are more exports than can be adopted: the rest would have no owner."""
        claimed, capacity = len(self._store.exports.claiming(self._node)), self._servers.capacity
        if claimed > capacity.within_files:
            raise SetupError(
                f"This node has {claimed} exports, and {capacity}. {openfiles.how_to_serve(claimed)} They are served "
                "on until the service starts."
            )
        if capacity.is_short_of_files:
            log.warning("%s. %s", capacity, openfiles.how_to_serve(capacity.ports))

    def _sweep(self) -> None:
        """Ends what remains of exports that are not live in the store, for example after a backup was restored."""
        live = {record.id for record in self._store.exports.claiming(self._node)}
        for leftover in self._state.leftovers(live):
            self._servers.sweep(leftover)

    def _release_all(self) -> bool:
        """Called repeatedly, for claims that were under way. Returns whether anything is left."""
        try:
            for record in self._store.exports.claiming(self._node):
                if record.state.is_live and self._store.exports.start_closing(record.id, "the service ends"):
                    self._exports.changed(record.id)
            unfinished = self._store.active_disks(self._node)
        except CloudManagerError as error:
            log.warning("exports cannot be closed: %s", error.detail)
            return True
        for canonical_id in unfinished:
            self._reconciler.poke(canonical_id)
        return bool(unfinished)

    def _left(self) -> list[str]:
        try:
            exports = self._store.exports.claiming(self._node)
            attachments = [record for record in self._store.attachments.all() if record.node == self._node]
        except CloudManagerError as error:
            return [f"everything ({error.detail})"]
        return [
            *(f"export {record.id} of {record.disk.id} is {record.state}" for record in exports),
            *(f"{record.plan.disk.id} is {record.state}" for record in attachments),
        ]
