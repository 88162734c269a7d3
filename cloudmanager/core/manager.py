"""The façade: everything that the API may call, and the composition root that puts the core together."""

import logging
import secrets
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

from cloudmanager.core import openfiles
from cloudmanager.core.attaching import Attachments
from cloudmanager.core.claiming import Claiming, ClaimRequest
from cloudmanager.core.clock import Clock
from cloudmanager.core.disklocks import DiskLocks
from cloudmanager.core.drift import Drift
from cloudmanager.core.errors import (
    CloudManagerError,
    ExportNotReady,
    ExportOver,
    InvalidRequest,
    SetupError,
    TransferUnavailable,
    UnsupportedAccess,
)
from cloudmanager.core.lastseen import LastSeen
from cloudmanager.core.model import (
    Access,
    Disk,
    DiskId,
    Export,
    ExportState,
    Finding,
    Node,
    Page,
    Problem,
    Query,
)
from cloudmanager.core.nbd import Servers
from cloudmanager.core.nbd.transfer import Transfer
from cloudmanager.core.nodeidentity import NodeIdentity
from cloudmanager.core.nodesession import NodeSession
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.core.readiness import Readiness
from cloudmanager.core.reconciler import Reconciler
from cloudmanager.core.records import AttachmentRecord, AuditEvent, ExportFilter, ExportRecord, NodeRecord, Order
from cloudmanager.core.settings import Settings
from cloudmanager.core.statedir import StateDirectory
from cloudmanager.core.store import Store
from cloudmanager.core.texts import MAX_HOLDER_LENGTH, MAX_NOTE_LENGTH, check_text
from cloudmanager.core.waiting import Waiting
from cloudmanager.core.whereabouts import Whereabouts, problem_of
from cloudmanager.core.winddown import WindDown

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProviderStatus:
    """A configured provider, and this machine as it knows it."""

    name: str
    type: str
    node: Node | None = None
    error: Problem | None = None
    pause: Order | None = None
    """An operator lets it make no new exports."""


class Manager:
    """Exports disks. Thread-safe; every method raises errors of `core.errors` only."""

    def __init__(
        self,
        settings: Settings,
        plugins: Plugins,
        store: Store,
        clock: Clock,
        state: StateDirectory,
    ) -> None:
        """Raises ConfigurationError."""
        self._settings = settings
        self._plugins = plugins
        self._store = store
        owner = f"{settings.server.node} ({settings.server.state_dir})"
        self._locks = DiskLocks.open(settings.server.lock_dir, owner)
        self._servers = Servers(
            settings.nbd, state.exports, settings.exports.scratch_limit_bytes, self._server_ended, self._locks
        )
        self._clock = clock
        self._state = state
        self._node = settings.server.node
        self._identity = NodeIdentity.of(state.identity)
        if self._identity.is_from_elsewhere:
            state.put_providers_aside()
        self._session = NodeSession(self._node, self._identity, store, clock)
        self._waiting = Waiting()
        self._whereabouts = Whereabouts(plugins)
        self._is_ending = threading.Event()
        self._attachments = Attachments(self._node, store, plugins, clock, settings.exports.linger_seconds, self._locks)
        self._reconciler = Reconciler(
            self._node,
            store,
            self._attachments,
            self._servers,
            settings.exports,
            clock,
            Drift(plugins, self._servers, clock, settings.exports.reconcile_seconds),
            LastSeen(state.last_seen, clock),
            self._announce,
            self._announce_ready,
            self._session.check,
        )
        self._claiming = Claiming(self._node, store, plugins, settings.exports, clock, self._is_ending)
        self._readiness = Readiness(
            self._node, store, self._reconciler, plugins, self._whereabouts, settings.nbd, self._is_ending
        )

    @classmethod
    def open(cls, settings: Settings, plugins: Plugins, clock: Clock | None = None) -> Self:
        """Puts the core together on a state directory. Raises SetupError, StoreUnavailable."""
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
            manager = cls(settings, plugins, store, clock, state)
            undo.pop_all()
        return manager

    def start(self) -> None:
        """Asks each provider who this machine is, adopts what an earlier service left, and begins to converge.

        A provider that cannot say for now is asked again, and keeps nobody from the others' disks. Raises what is
        final.
        """
        self._locks.hold_nodes(self._identity.related)
        kept = self._state.of_providers()
        for provider in self._plugins:
            provider.keep_in(kept)
        self._whereabouts.learn()
        self._rename()
        self._session.begin()
        self._check_capacity()
        self._sweep()
        self._reconciler.start()

    def wind_down(self, timeout: float) -> None:
        """Refuses new exports from now on, and closes the others if the settings say so, for `timeout` seconds."""
        self._is_ending.set()
        if self._settings.exports.on_shutdown == "close":
            WindDown(self._node, self._store, self._attachments, self._reconciler, self._announce).run(timeout)

    def close(self, timeout: float = 30) -> None:
        """Stops converging within `timeout` seconds. Exports go on being served, and the next service adopts them."""
        self._whereabouts.close()
        for canonical_id in sorted(self._reconciler.stop(timeout)):
            log.warning("left to the next start: %s, which was still being worked on", canonical_id)
        self._waiting.cancel_all()
        self._servers.close()
        self._session.end()
        self._store.close()
        self._state.close()
        self._locks.close()

    # Exports

    def export(
        self,
        disk: str,
        access: Access,
        holder: str,
        *,
        ttl: timedelta | None = None,
        note: str = "",
        idempotency_key: str | None = None,
    ) -> Export:
        """Claims a disk for a holder; it is ready later (`settled`). The same key and request give the same export.

        Raises InvalidRequest, NotFound, Refused, Conflict, ImageError, ProviderPaused, NodeDraining, ShuttingDown, or
        what the provider met.
        """
        export, future = self.exporting(ClaimRequest(disk, access, holder, ttl, note, idempotency_key))
        future.cancel()
        return export

    def exporting(self, wanted: ClaimRequest) -> "tuple[Export, Future[Export]]":
        """`export` and `settled` in one."""
        self._session.check()
        export_id = _new_id(self._clock)
        future = self._waiting.add(export_id)  # before the claim, which may be fulfilled at once
        try:
            record = self._claiming.claim(export_id, wanted)
        except BaseException:
            future.cancel()
            raise
        if record.id != export_id:  # the key gave an earlier export
            future.cancel()
            future = self.settled(record.id)
        else:
            self._reconciler.poke(record.disk.canonical_id)
        return self._view(record), future

    def settled(self, export_id: str) -> "Future[Export]":
        """Done when the export is ready or over, at once if it is so already. Cancel it to stop waiting."""
        future = self._waiting.add(export_id)
        try:
            export = self.get(export_id)
        except CloudManagerError:
            self._waiting.remove(export_id, future)
            raise
        if _is_settled(export.state):
            self._waiting.settle(export_id, export)
        return future

    def wait(self, export_id: str, timeout: float) -> Export:
        """The export once it is ready or over, or as it is after `timeout` seconds."""
        future = self.settled(export_id)
        try:
            return future.result(timeout)
        except TimeoutError:
            return self.get(export_id)
        finally:
            self._waiting.remove(export_id, future)

    def get(self, export_id: str) -> Export:
        return self._view(self._store.exports.get(export_id))

    def list(self, wanted: ExportFilter, page: str | None = None, limit: int = 100) -> Page[Export]:
        """Newest first, closed and failed ones as long as they are kept."""
        found = self._store.exports.page(wanted, page, limit)
        return Page(tuple(self._view(record) for record in found.items), found.next_page)

    def renew(self, export_id: str, ttl: timedelta | None = None) -> Export:
        """Lets the export live for another `ttl` from now. Raises ExportOver once it is closing."""
        life = self._claiming.life(ttl)
        renewed = self._store.exports.renew(
            export_id, self._clock.now() + life, self._clock.boottime() + life.total_seconds()
        )
        export = self.get(export_id)
        if not renewed:
            raise ExportOver(f"Export {export_id} is {export.state} and cannot be renewed. Ask for a new one.")
        return export

    def release(self, export_id: str) -> Export:
        """Ends the claim: connected clients have their time to finish. Releasing it again changes nothing."""
        record = self._store.exports.get(export_id)
        if self._store.exports.start_closing(export_id, "released"):
            self._announce(export_id)
        self._reconciler.poke(record.disk.canonical_id)
        return self.get(export_id)

    def transfer(self, export_id: str, *, is_writing: bool = False) -> Transfer:
        """A connection to the export's own server, for bytes that the service moves itself. Close it soon.

        Raises ExportNotFound, ExportNotReady, ExportOver, UnsupportedAccess, TransferUnavailable, ShuttingDown.
        """
        record = self._store.exports.get(export_id)
        if record.node != self._node:
            raise TransferUnavailable(f"Export {export_id} is served by {record.node}: ask there, or use NBD.")
        if not _is_settled(record.state):
            raise ExportNotReady(f"Export {export_id} is {record.state}. Wait until it is ready.")
        if record.state is not ExportState.READY or record.port is None:
            raise ExportOver(f"Export {export_id} is {record.state}. Ask for a new one.")
        if is_writing and record.access is Access.READ_ONLY:
            raise UnsupportedAccess(f"Export {export_id} is read-only. Ask for one with read-write or scratch access.")
        return self._servers.transfer(record.id, record.name, record.port)

    # An operator's orders

    def force_release(self, export_id: str, by: str = "", reason: str = "") -> Export:
        """Ends the claim and cuts connected clients off: they are, when this returns. Works on closing exports too."""
        self._order(by, reason)
        before = self._store.exports.get(export_id)
        if self._store.exports.force_closing(export_id, by, reason):
            self._announce(export_id)
        if before.node == self._node and before.state in (ExportState.READY, ExportState.CLOSING):
            self._cut_off(export_id)
        self._reconciler.poke(before.disk.canonical_id)
        return self.get(export_id)

    def pause(self, provider: str, by: str = "", reason: str = "") -> ProviderStatus:
        """The provider makes no new exports on any node that uses the store. Those that it has go on as ever."""
        self._store.orders.pause(self._plugins[provider].name, self._order(by, reason), self._node)
        return self._known_status(self._plugins[provider])

    def resume(self, provider: str, by: str = "", reason: str = "") -> ProviderStatus:
        self._store.orders.resume(self._plugins[provider].name, self._order(by, reason), self._node)
        return self._known_status(self._plugins[provider])

    def drain(self, node: str, by: str = "", reason: str = "") -> NodeRecord:
        """The node takes no new exports. Those that it has go on until they end, and their disks do not linger then."""
        self._store.orders.drain(node, self._order(by, reason))
        for canonical_id in self._store.active_disks(self._node):
            self._reconciler.poke(canonical_id)
        return self._node_record(node)

    def undrain(self, node: str, by: str = "", reason: str = "") -> NodeRecord:
        self._store.orders.undrain(node, self._order(by, reason))
        return self._node_record(node)

    # What there is

    def disks(
        self, provider: str | None, query: Query, page: str | None = None, limit: int | None = None
    ) -> Page[Disk]:
        """One page of the disks of one provider, or of all, one provider after the other.

        A provider's own pages have a length of their own; with a limit, one that is longer is given in parts.
        """
        names = [provider] if provider else [each.name for each in self._plugins]
        place, _, token = (page or "").partition(":")
        at, _, shown = (place, "", "") if place in names else place.rpartition("+")
        if page and (at not in names or not (shown or "0").isdecimal()):
            raise InvalidRequest("The page token is not one that this list gave. Start again without it.")
        for name in names[names.index(at) if page else 0 :]:
            found = self._plugins[name].find(query, (token or None) if name == at else None)
            skipped = int(shown or 0) if name == at else 0
            rest = found.items[skipped:]
            if limit is not None and len(rest) > limit:
                return Page(rest[:limit], f"{name}+{skipped + limit}:{token if name == at else ''}")
            found = replace(found, items=rest)
            if found.next_page:
                return Page(found.items, f"{name}:{found.next_page}")
            following = names[names.index(name) + 1 :]
            if found.items and following:
                return Page(found.items, f"{following[0]}:")
            if found.items:
                return found
        return Page(())

    def disk(self, disk: str) -> Disk:
        disk_id = DiskId.parse(disk)
        return self._plugins[disk_id.provider].describe(disk_id)

    def attachments(self) -> tuple[AttachmentRecord, ...]:
        return tuple(self._store.attachments.all())

    def providers(self) -> tuple[ProviderStatus, ...]:
        pauses = self._store.orders.pauses()
        return tuple(self._status(provider, pauses.get(provider.name)) for provider in self._plugins)

    def pauses(self) -> dict[str, Order | None]:
        """By provider, also of those that are not paused. Asks no cloud."""
        paused = self._store.orders.pauses()
        return {provider.name: paused.get(provider.name) for provider in self._plugins}

    def nodes(self) -> tuple[NodeRecord, ...]:
        return tuple(self._store.nodes.all())

    def audit(self, page: str | None = None, limit: int = 100, export_id: str = "") -> Page[AuditEvent]:
        return self._store.trail.events(page, limit, export_id)

    def export_counts(self) -> dict[tuple[ExportState, Access], int]:
        return self._store.exports.counts()

    def readiness(self) -> tuple[Finding, ...]:
        """Whether requests can be served now: any PROBLEM says no."""
        return (*self._readiness.findings(), *self._session.findings())

    # Inside

    def _rename(self) -> None:
        """A machine that has another name now keeps its exports and attachments."""
        former = self._state.node()
        if former == self._node:
            return
        if former:
            log.warning("this node was called %s and is called %s now", former, self._node)
            self._store.rename_node(former, self._node, self._identity.id)
        self._state.keep_node(self._node)

    def _check_capacity(self) -> None:
        """Raises SetupError where there are more exports than can be taken over: they would have no owner."""
        claimed, capacity = len(self._store.exports.claiming(self._node)), self._servers.capacity
        if claimed > capacity.within_files:
            raise SetupError(
                f"This node has {claimed} exports, and {capacity}. {openfiles.how_to_serve(claimed)} They are served "
                "on until the service starts."
            )
        if capacity.is_short_of_files:
            log.warning("%s. %s", capacity, openfiles.how_to_serve(capacity.ports))

    def _sweep(self) -> None:
        """Ends what is left of exports that the store does not know as live, as after a backup was restored."""
        live = {record.id for record in self._store.exports.claiming(self._node)}
        for leftover in self._state.leftovers(live):
            self._servers.sweep(leftover)

    def _order(self, by: str, reason: str) -> Order:
        if by:
            check_text("by", by, MAX_HOLDER_LENGTH, needed=True)
        check_text("reason", reason, MAX_NOTE_LENGTH)
        return Order(self._clock.now(), by, reason)

    def _cut_off(self, export_id: str) -> None:
        try:
            self._servers.stop(export_id)
        except CloudManagerError as error:  # the reconciler goes on trying
            log.warning("export %s is not cut off yet: %s", export_id, error.detail)

    def _status(self, provider: Provider, pause: Order | None) -> ProviderStatus:
        """What it says now; what is known where it could not say before, so that nobody waits for one that hangs."""
        if self._whereabouts.of(provider.name).error:
            return self._known_status(provider)
        try:
            return ProviderStatus(provider.name, provider.type, provider.node(), pause=pause)
        except CloudManagerError as error:
            return ProviderStatus(provider.name, provider.type, error=Problem.of(error), pause=pause)

    def _known_status(self, provider: Provider) -> ProviderStatus:
        known = self._whereabouts.of(provider.name)
        pause = self._store.orders.pauses().get(provider.name)
        return ProviderStatus(provider.name, provider.type, known.node, problem_of(known), pause)

    def _node_record(self, name: str) -> NodeRecord:
        return next(record for record in self._store.nodes.all() if record.name == name)

    def _view(self, record: ExportRecord) -> Export:
        is_ready = record.state is ExportState.READY and record.port is not None
        tls = self._servers.tls(record.id) if is_ready else None
        return Export(
            id=record.id,
            disk=record.disk,
            access=record.access,
            holder=record.holder,
            state=record.state,
            node=record.node,
            name=record.name,
            created_at=record.created_at,
            expires_at=record.expires_at,
            note=record.note,
            port=record.port,
            uri=self._servers.uri(record.name, record.port, tls) if is_ready and record.port else None,
            size_bytes=record.size_bytes,
            format=record.format,
            logical_sector_bytes=record.disk.logical_sector_bytes if record.size_bytes is not None else None,
            tls=tls,
            credentials=self._servers.credentials(record.id) if is_ready else None,
            error=record.error,
        )

    def _server_ended(self, export_id: str) -> None:
        self._reconciler.server_ended(export_id)

    def _announce_ready(self, record: ExportRecord) -> None:
        if self._waiting.has(record.id):
            self._waiting.settle(record.id, self._view(record))

    def _announce(self, export_id: str) -> None:
        if self._waiting.has(export_id) and _is_settled((export := self.get(export_id)).state):
            self._waiting.settle(export_id, export)


def _is_settled(state: ExportState) -> bool:
    return state not in (ExportState.PENDING, ExportState.ATTACHING)


def _new_id(clock: Clock) -> str:
    """Sorts by time of creation, and cannot be guessed."""
    return f"{int(clock.now().timestamp() * 1000):012x}{secrets.token_hex(6)}"
