"""The façade: everything that the API may call, and the composition root that puts the core together."""

import hashlib
import json
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from cloudmanager.core.attaching import Attachments
from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import (
    CloudManagerError,
    ExportOver,
    InvalidRequest,
    UnsupportedAccess,
)
from cloudmanager.core.hookspecs import ExportRequest
from cloudmanager.core.model import (
    Access,
    AttachmentState,
    Disk,
    DiskId,
    Export,
    ExportState,
    Finding,
    Node,
    Page,
    Problem,
    Query,
    Severity,
)
from cloudmanager.core.nbd import Servers, new_export_name
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.reconciler import Reconciler
from cloudmanager.core.records import AttachmentRecord, AuditEvent, ExportFilter, ExportRecord, NodeRecord
from cloudmanager.core.settings import Settings
from cloudmanager.core.statedir import StateDirectory
from cloudmanager.core.store import Store
from cloudmanager.core.waiting import Waiting

MAX_HOLDER_LENGTH = 256
MAX_NOTE_LENGTH = 4096
MAX_KEY_LENGTH = 255


@dataclass(frozen=True)
class ProviderStatus:
    """A configured provider, and this machine as it knows it."""

    name: str
    type: str
    node: Node | None = None
    error: Problem | None = None


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
        self._settings = settings
        self._plugins = plugins
        self._store = store
        self._servers = Servers(settings.nbd, state.exports, settings.exports.scratch_limit_bytes, self._server_ended)
        self._clock = clock
        self._state = state
        self._node = settings.server.node
        self._waiting = Waiting()
        attachments = Attachments(self._node, store, plugins, clock, settings.exports.linger_seconds)
        self._reconciler = Reconciler(
            self._node, store, attachments, self._servers, settings.exports, clock, self._announce
        )

    @classmethod
    def open(cls, settings: Settings, plugins: Plugins, clock: Clock | None = None) -> Self:
        """Puts the core together on a state directory. Raises SetupError, StoreUnavailable."""
        clock = clock or Clock()
        state = StateDirectory.open(settings.server.state_dir)
        try:
            return cls(settings, plugins, Store.open(settings.store_url, clock), clock, state)
        except BaseException:
            state.close()
            raise

    def start(self) -> None:
        """Asks each provider who this machine is, adopts what an earlier service left, and begins to converge."""
        for provider in self._plugins:
            provider.node()
        self._sweep()
        self._reconciler.start()

    def close(self, timeout: float = 30) -> None:
        """Stops converging within `timeout` seconds. Exports go on being served, and the next service adopts them."""
        self._reconciler.stop(timeout)
        self._waiting.cancel_all()
        self._servers.close()
        self._store.close()
        self._state.close()

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

        Raises InvalidRequest, NotFound, Refused, Conflict, ImageError, or what the provider met.
        """
        disk_id = DiskId.parse(disk)
        provider = self._plugins[disk_id.provider]
        _check_text("holder", holder, MAX_HOLDER_LENGTH, needed=True)
        _check_text("note", note, MAX_NOTE_LENGTH)
        life = self._life(ttl)
        digest = _digest(disk, access, holder, ttl, note)
        if idempotency_key is not None:
            _check_text("Idempotency-Key", idempotency_key, MAX_KEY_LENGTH, needed=True)
            if earlier := self._store.replayed(idempotency_key, digest):
                return self._view(earlier)
        described = provider.describe(disk_id)
        wanted = self._new_record(described, access, holder, note, life)
        if access not in described.access:
            self._store.refuse_conflict(wanted)  # what holds the disk may be an export, and then its holder is named
            raise _unsupported(described, access)
        if self._plugins.have_policies:
            self._plugins.authorize(ExportRequest(described, access, holder, self._is_attached(described)))
        record = self._store.claim(wanted, idempotency_key, digest)
        self._reconciler.poke(record.disk.canonical_id)
        return self._view(record)

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
        return self._view(self._store.export(export_id))

    def list(self, wanted: ExportFilter, page: str | None = None, limit: int = 100) -> Page[Export]:
        """Newest first, closed and failed ones as long as they are kept."""
        found = self._store.exports(wanted, page, limit)
        return Page(tuple(self._view(record) for record in found.items), found.next_page)

    def renew(self, export_id: str, ttl: timedelta | None = None) -> Export:
        """Lets the export live for another `ttl` from now. Raises ExportOver once it is closing."""
        life = self._life(ttl)
        renewed = self._store.renew(export_id, self._clock.now() + life, self._clock.boottime() + life.total_seconds())
        export = self.get(export_id)
        if not renewed:
            raise ExportOver(f"Export {export_id} is {export.state} and cannot be renewed. Ask for a new one.")
        return export

    def release(self, export_id: str) -> Export:
        """Ends the claim: connected clients have their time to finish. Releasing it again changes nothing."""
        record = self._store.export(export_id)
        if self._store.start_closing(export_id, "released"):
            self._announce(export_id)
        self._reconciler.poke(record.disk.canonical_id)
        return self.get(export_id)

    # What there is

    def disks(self, provider: str | None, query: Query, page: str | None = None) -> Page[Disk]:
        """One page of the disks of one provider, or of all, one provider after the other."""
        names = [provider] if provider else [each.name for each in self._plugins]
        at, _, token = (page or "").partition(":")
        if page and at not in names:
            raise InvalidRequest("The page token is not one that this list gave. Start again without it.")
        for name in names[names.index(at) if page else 0 :]:
            found = self._plugins[name].find(query, (token or None) if name == at else None)
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
        return tuple(self._store.attachments())

    def providers(self) -> tuple[ProviderStatus, ...]:
        return tuple(_status(provider.name, provider.type, provider.node) for provider in self._plugins)

    def nodes(self) -> tuple[NodeRecord, ...]:
        return tuple(self._store.nodes())

    def audit(self, page: str | None = None, limit: int = 100, export_id: str = "") -> Page[AuditEvent]:
        return self._store.audit(page, limit, export_id)

    def export_counts(self) -> dict[tuple[ExportState, Access], int]:
        return self._store.export_counts()

    def readiness(self) -> tuple[Finding, ...]:
        """Whether requests can be served now: any PROBLEM says no."""
        return self._store_finding(), self._reconciler_finding()

    # Inside

    def _sweep(self) -> None:
        """Deletes what is left of exports that the store does not know as live, as after a backup was restored."""
        live = {record.id for record in self._store.claiming_exports(self._node)}
        for leftover in self._state.leftovers(live):
            self._servers.stop(leftover)

    def _life(self, ttl: timedelta | None) -> timedelta:
        limits = self._settings.exports
        life = timedelta(seconds=limits.default_ttl_seconds) if ttl is None else ttl
        if not timedelta(seconds=1) <= life <= timedelta(seconds=limits.max_ttl_seconds):
            raise InvalidRequest(f"ttl_seconds must be from 1 to {limits.max_ttl_seconds}.")
        return life

    def _new_record(self, disk: Disk, access: Access, holder: str, note: str, life: timedelta) -> ExportRecord:
        now, boottime = self._clock.now(), self._clock.boottime()
        return ExportRecord(
            id=_new_id(self._clock),
            node=self._node,
            disk=disk,
            access=access,
            holder=holder,
            note=note,
            state=ExportState.PENDING,
            name=new_export_name(),
            created_at=now,
            expires_at=now + life,
            boot_id=self._clock.boot_id,
            expires_boottime=boottime + life.total_seconds(),
            unready_boottime=boottime,
        )

    def _view(self, record: ExportRecord) -> Export:
        is_ready = record.state is ExportState.READY and record.port is not None
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
            uri=self._servers.uri(record.name, record.port) if is_ready and record.port else None,
            size_bytes=record.size_bytes,
            format=record.format,
            credentials=self._servers.credentials(record.id) if is_ready else None,
            error=record.error,
        )

    def _is_attached(self, disk: Disk) -> bool:
        record = self._store.attachment(self._node, disk.canonical_id)
        return record is not None and record.state in (AttachmentState.ATTACHED, AttachmentState.FOREIGN)

    def _server_ended(self, export_id: str) -> None:
        self._reconciler.server_ended(export_id)

    def _announce(self, export_id: str) -> None:
        if self._waiting.has(export_id) and _is_settled((export := self.get(export_id)).state):
            self._waiting.settle(export_id, export)

    def _store_finding(self) -> Finding:
        try:
            self._store.nodes()
        except CloudManagerError as error:
            return Finding("store", Severity.PROBLEM, error.detail)
        return Finding("store", Severity.OK, "answers")

    def _reconciler_finding(self) -> Finding:
        if self._reconciler.is_running:
            return Finding("reconciler", Severity.OK, "runs")
        return Finding("reconciler", Severity.PROBLEM, "does not run", "Start the service again.")


def _is_settled(state: ExportState) -> bool:
    return state not in (ExportState.PENDING, ExportState.ATTACHING)


def _new_id(clock: Clock) -> str:
    """Sorts by time of creation, and cannot be guessed."""
    return f"{int(clock.now().timestamp() * 1000):012x}{secrets.token_hex(6)}"


def _digest(disk: str, access: Access, holder: str, ttl: timedelta | None, note: str) -> str:
    seconds = None if ttl is None else ttl.total_seconds()
    return hashlib.sha256(json.dumps([disk, access, holder, seconds, note]).encode()).hexdigest()


def _check_text(name: str, value: str, longest: int, *, needed: bool = False) -> None:
    if needed and not value.strip():
        raise InvalidRequest(f"{name} must not be empty.")
    if len(value) > longest:
        raise InvalidRequest(f"{name} has {len(value)} characters; at most {longest} are kept.")
    if not all(char.isprintable() or (char == "\n" and not needed) for char in value):
        raise InvalidRequest(f"{name} must be printable text.")


def _unsupported(disk: Disk, access: Access) -> UnsupportedAccess:
    possible = ", ".join(sorted(disk.access)) or "nothing"
    held = f" It is held by {', '.join(disk.held_by)}." if disk.held_by else ""
    why = f" {disk.description}" if disk.description else ""
    return UnsupportedAccess(f"{disk.id} cannot be exported {access}; possible: {possible}.{held}{why}")


def _status(name: str, type_name: str, node: Callable[[], Node]) -> ProviderStatus:
    try:
        return ProviderStatus(name, type_name, node())
    except CloudManagerError as error:
        return ProviderStatus(name, type_name, error=Problem.of(error))
