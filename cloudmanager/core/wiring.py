"""The composition root: puts the core together, on a store and a state directory."""

import logging
import threading
from contextlib import ExitStack

from cloudmanager.core.attaching import Attachments
from cloudmanager.core.catalog import Catalog
from cloudmanager.core.claiming import Claiming
from cloudmanager.core.clock import Clock
from cloudmanager.core.clock_readings import ClockReadings
from cloudmanager.core.disklocks import DiskLocks
from cloudmanager.core.drift import Drift
from cloudmanager.core.exports import Exports
from cloudmanager.core.lifecycle import Lifecycle
from cloudmanager.core.maintenance import Maintenance
from cloudmanager.core.manager import Manager
from cloudmanager.core.nbd import Servers
from cloudmanager.core.nodeidentity import NodeIdentity
from cloudmanager.core.nodesession import NodeSession
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.provider_nodes import ProviderNodes
from cloudmanager.core.readiness import Readiness
from cloudmanager.core.reconciler import Reconciler
from cloudmanager.core.settings import Settings
from cloudmanager.core.statedir import StateDirectory
from cloudmanager.core.store import Store

log = logging.getLogger(__name__)


def open_manager(settings: Settings, plugins: Plugins, clock: Clock | None = None) -> Manager:
    """A manager that is not started yet. Raises SetupError, StoreUnavailable."""
    if settings.nbd.certificates:
        from cloudmanager.core import certificates  # noqa: PLC0415 - 9 MiB that few services need

        certificates.require(settings.nbd.certificates, settings.nbd.advertised)
    if settings.nbd.caution:
        log.warning("%s", settings.nbd.caution)
    clock = clock or Clock()
    with ExitStack() as undo:
        state = StateDirectory.open(settings.server.state_dir)
        undo.callback(state.close)
        store = Store.open(settings.store_url, clock)
        undo.callback(store.close)
        manager = assemble(settings, plugins, store, clock, state)
        undo.pop_all()
    return manager


def assemble(settings: Settings, plugins: Plugins, store: Store, clock: Clock, state: StateDirectory) -> Manager:
    """On an open store and state directory, which the manager closes. Raises ConfigurationError."""
    node, nbd, limits = settings.server.node, settings.nbd, settings.exports
    locks = DiskLocks.open(settings.server.lock_dir, f"{node} ({settings.server.state_dir})")

    def on_server_exit(export_id: str) -> None:
        reconciler.server_ended(export_id)

    servers = Servers(nbd, state.exports, limits.scratch_limit_bytes, on_server_exit, locks)
    exports = Exports(node, store, servers)
    identity = NodeIdentity.of(state.identity, boot=clock.boot_id)
    if identity.is_from_elsewhere:
        state.put_providers_aside()
    session = NodeSession(node, identity, store, clock)
    provider_nodes = ProviderNodes(plugins)
    is_ending = threading.Event()
    attachments = Attachments(node, store, plugins, clock, limits.linger_seconds, locks)
    reconciler = Reconciler(
        node,
        store,
        attachments,
        servers,
        limits,
        clock,
        Drift(plugins, servers, clock, limits.reconcile_seconds),
        ClockReadings(state.last_seen, clock),
        exports.changed,
        exports.became_ready,
        session.check,
    )
    catalog = Catalog(node, plugins, store, provider_nodes)
    return Manager(
        plugins,
        store,
        clock,
        exports,
        catalog,
        Claiming(node, store, plugins, limits, clock, is_ending),
        reconciler,
        Readiness(node, store, reconciler, plugins, provider_nodes, nbd, is_ending),
        session,
        Maintenance(node, store, plugins, clock, exports, servers, reconciler, catalog),
        Lifecycle(
            settings,
            plugins,
            store,
            state,
            locks,
            servers,
            exports,
            session,
            provider_nodes,
            attachments,
            reconciler,
            is_ending,
        ),
    )
