"""Maintenance actions: force-release an export, pause a provider, drain a node."""

import logging

from cloudmanager.core.catalog import Catalog, ProviderStatus
from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.exports import Exports
from cloudmanager.core.model import MAX_HOLDER_LENGTH, MAX_NOTE_LENGTH, Export, ExportState, check_text
from cloudmanager.core.nbd import Servers
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.reconciler import Reconciler
from cloudmanager.core.records import MaintenanceAction, NodeRecord
from cloudmanager.core.store import Store

log = logging.getLogger(__name__)


class Maintenance:
    """Every action records who did it and why, if given; the audit trail keeps that."""

    def __init__(
        self,
        node: str,
        store: Store,
        plugins: Plugins,
        clock: Clock,
        exports: Exports,
        servers: Servers,
        reconciler: Reconciler,
        catalog: Catalog,
    ) -> None:
        self._node = node
        self._store = store
        self._plugins = plugins
        self._clock = clock
        self._exports = exports
        self._servers = servers
        self._reconciler = reconciler
        self._catalog = catalog

    def force_release(self, export_id: str, by: str = "", reason: str = "") -> Export:
        """Ends the claim. Connected clients are disconnected when this returns. Works on closing exports too."""
        self._action(by, reason)
        before = self._store.exports.get(export_id)
        if self._store.exports.force_closing(export_id, by, reason):
            self._exports.changed(export_id)
        if before.node == self._node and before.state in (ExportState.READY, ExportState.CLOSING):
            try:
                self._servers.stop(export_id)
            except CloudManagerError as error:  # the reconciler goes on trying
                log.warning("export %s is not cut off yet: %s", export_id, error.detail)
        self._reconciler.poke(before.disk.canonical_id)
        return self._exports.get(export_id)

    def pause(self, provider: str, by: str = "", reason: str = "") -> ProviderStatus:
        """The provider makes no new exports on any node that uses the store. Its existing exports go on."""
        self._store.maintenance.pause(self._plugins[provider].name, self._action(by, reason), self._node)
        return self._catalog.known_status(self._plugins[provider])

    def resume(self, provider: str, by: str = "", reason: str = "") -> ProviderStatus:
        """Ends a pause."""
        self._store.maintenance.resume(self._plugins[provider].name, self._action(by, reason), self._node)
        return self._catalog.known_status(self._plugins[provider])

    def drain(self, node: str, by: str = "", reason: str = "") -> NodeRecord:
        """The node takes no new exports. Its existing ones go on until they end; their disks do not linger."""
        self._store.maintenance.drain(node, self._action(by, reason))
        for canonical_id in self._store.active_disks(self._node):
            self._reconciler.poke(canonical_id)
        return self._node_record(node)

    def undrain(self, node: str, by: str = "", reason: str = "") -> NodeRecord:
        """Ends a drain."""
        self._store.maintenance.undrain(node, self._action(by, reason))
        return self._node_record(node)

    def _action(self, by: str, reason: str) -> MaintenanceAction:
        """Raises InvalidRequest."""
        if by:
            check_text("by", by, MAX_HOLDER_LENGTH, needed=True)
        check_text("reason", reason, MAX_NOTE_LENGTH)
        return MaintenanceAction(self._clock.now(), by, reason)

    def _node_record(self, name: str) -> NodeRecord:
        return next(record for record in self._store.nodes.all() if record.name == name)
