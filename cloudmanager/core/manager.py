"""The façade: everything that the API may call."""

import secrets
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import timedelta

from cloudmanager.core.catalog import Catalog, DiskUse, ProviderStatus
from cloudmanager.core.claiming import Claiming, ClaimRequest
from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import ExportOver
from cloudmanager.core.exports import Exports
from cloudmanager.core.lifecycle import Lifecycle
from cloudmanager.core.maintenance import Maintenance
from cloudmanager.core.model import Access, Disk, Export, ExportState, Finding, Page, Query
from cloudmanager.core.nbd.transfer import Transfer
from cloudmanager.core.nodesession import NodeSession
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.readiness import Readiness
from cloudmanager.core.reconciler import Reconciler
from cloudmanager.core.records import AttachmentRecord, AuditEvent, ExportFilter, MaintenanceAction, NodeRecord
from cloudmanager.core.store import Store


class Manager:
    """Exports disks. Thread-safe; every method raises errors of `core.errors` only. Made by `wiring.open_manager`."""

    def __init__(
        self,
        plugins: Plugins,
        store: Store,
        clock: Clock,
        exports: Exports,
        catalog: Catalog,
        claiming: Claiming,
        reconciler: Reconciler,
        readiness: Readiness,
        session: NodeSession,
        maintenance: Maintenance,
        lifecycle: Lifecycle,
    ) -> None:
        self.maintenance = maintenance
        """What an operator may do."""
        self._plugins = plugins
        self._store = store
        self._clock = clock
        self._exports = exports
        self._catalog = catalog
        self._claiming = claiming
        self._reconciler = reconciler
        self._readiness = readiness
        self._session = session
        self._lifecycle = lifecycle

    # Start and end

    def start(self) -> None:
        """As `Lifecycle.start`."""
        self._lifecycle.start()

    def shut_down(self, timeout: float) -> None:
        """As `Lifecycle.shut_down`."""
        self._lifecycle.shut_down(timeout)

    def close(self, timeout: float = 30) -> None:
        """As `Lifecycle.close`."""
        self._lifecycle.close(timeout)

    # Exports

    def claim(self, request: ClaimRequest) -> tuple[Export, Future[Export]]:
        """Claims a disk for a holder. The future is done when the export is ready or over, as that of `follow`.

        The same idempotency key and request give the same export.
        Raises InvalidRequest, NotFound, Refused, Conflict, ImageError, ProviderPaused, NodeDraining, ShuttingDown, or
        what the provider met.
        """
        self._session.check()
        export_id = _new_id(self._clock)
        future = self._exports.follow_new(export_id)  # before the claim, which may be fulfilled at once
        try:
            record = self._claiming.claim(export_id, request)
        except BaseException:
            future.cancel()
            raise
        if record.id != export_id:  # the key gave an earlier export
            future.cancel()
            future = self.follow(record.id)
        else:
            self._reconciler.poke(record.disk.canonical_id)
        return self._exports.view(record), future

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
        """`claim` for callers that do not wait, or `wait` later."""
        export, future = self.claim(ClaimRequest(disk, access, holder, ttl, note, idempotency_key))
        future.cancel()
        return export

    def follow(self, export_id: str) -> Future[Export]:
        """Done when the export is ready or over, at once if it is so already. Cancel it to stop waiting."""
        return self._exports.follow(export_id)

    def wait(self, export_id: str, timeout: float) -> Export:
        """The export once it is ready or over, or as it is after `timeout` seconds."""
        return self._exports.wait(export_id, timeout)

    def get(self, export_id: str) -> Export:
        return self._exports.get(export_id)

    def list(self, wanted: ExportFilter, page: str | None = None, limit: int = 100) -> Page[Export]:
        """Newest first, closed and failed ones as long as they are kept."""
        return self._exports.list(wanted, page, limit)

    def renew(self, export_id: str, ttl: timedelta | None = None) -> Export:
        """Extends the export to `ttl` from now. Raises ExportOver once it is closing."""
        lifetime = self._claiming.lifetime(ttl)
        renewed = self._store.exports.renew(
            export_id, self._clock.now() + lifetime, self._clock.boottime() + lifetime.total_seconds()
        )
        export = self.get(export_id)
        if not renewed:
            raise ExportOver(f"Export {export_id} is {export.state} and cannot be renewed. Ask for a new one.")
        return export

    def release(self, export_id: str) -> Export:
        """Ends the claim: connected clients get the grace period to finish. Releasing it again changes nothing."""
        record = self._store.exports.get(export_id)
        if self._store.exports.start_closing(export_id, "released"):
            self._exports.changed(export_id)
        self._reconciler.poke(record.disk.canonical_id)
        return self.get(export_id)

    def transfer(self, export_id: str, *, is_writing: bool = False) -> Transfer:
        """A connection to the export's own server, for bytes that the service moves itself. Close it soon.

        Raises ExportNotFound, ExportNotReady, ExportOver, UnsupportedAccess, TransferUnavailable, ShuttingDown.
        """
        return self._exports.transfer(export_id, is_writing=is_writing)

    # What there is

    def disks(
        self, provider: str | None, query: Query, page: str | None = None, limit: int | None = None
    ) -> Page[Disk]:
        """One page of the disks of one provider, or of all, one provider after the other.

        A provider's own pages have a length of their own; with a limit, one that is longer is given in parts.
        """
        return self._catalog.disks(provider, query, page, limit)

    def disk(self, disk: str) -> Disk:
        return self._catalog.disk(disk)

    def uses(self, disks: Sequence[Disk]) -> tuple[DiskUse, ...]:
        """What is done with each of them on this machine. Asks no cloud."""
        return self._catalog.uses(disks)

    def attachments(self) -> tuple[AttachmentRecord, ...]:
        return tuple(self._store.attachments.all())

    def providers(self) -> tuple[ProviderStatus, ...]:
        return self._catalog.providers()

    def pauses(self) -> dict[str, MaintenanceAction | None]:
        """By provider, also of those that are not paused. Asks no cloud."""
        return self._catalog.pauses()

    def nodes(self) -> tuple[NodeRecord, ...]:
        return tuple(self._store.nodes.all())

    def audit(self, page: str | None = None, limit: int = 100, export_id: str = "") -> Page[AuditEvent]:
        return self._store.trail.events(page, limit, export_id)

    def export_counts(self) -> dict[tuple[ExportState, Access], int]:
        return self._store.exports.counts()

    def readiness(self) -> tuple[Finding, ...]:
        """Whether requests can be served now: any PROBLEM says no."""
        return (*self._readiness.findings(), *self._session.findings())


def _new_id(clock: Clock) -> str:
    """Sorts by time of creation, and cannot be guessed."""
    return f"{int(clock.now().timestamp() * 1000):012x}{secrets.token_hex(6)}"
