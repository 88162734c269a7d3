"""The exports as their clients see them, and the callers that wait until one is ready or over."""

import threading
from concurrent.futures import Future

from cloudmanager.core.errors import (
    CloudManagerError,
    ExportNotReady,
    ExportOver,
    TransferUnavailable,
    UnsupportedAccess,
)
from cloudmanager.core.model import Access, Export, ExportState, Page
from cloudmanager.core.nbd import Servers
from cloudmanager.core.nbd.transfer import Transfer
from cloudmanager.core.records import ExportFilter, ExportRecord
from cloudmanager.core.store import Store


class Exports:
    """Thread-safe."""

    def __init__(self, node: str, store: Store, servers: Servers) -> None:
        self._node = node
        self._store = store
        self._servers = servers
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Future[Export]]] = {}

    def get(self, export_id: str) -> Export:
        return self.view(self._store.exports.get(export_id))

    def list(self, wanted: ExportFilter, page: str | None, limit: int) -> Page[Export]:
        """Newest first, closed and failed ones as long as they are kept."""
        found = self._store.exports.page(wanted, page, limit)
        return Page(tuple(self.view(record) for record in found.items), found.next_page)

    def view(self, record: ExportRecord) -> Export:
        """With the address and what it takes to connect, once it is ready."""
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

    def transfer(self, export_id: str, *, is_writing: bool) -> Transfer:
        """As `Manager.transfer`."""
        record = self._store.exports.get(export_id)
        if record.node != self._node:
            raise TransferUnavailable(f"Export {export_id} is served by {record.node}: ask there, or use NBD.")
        if record.state.is_starting:
            raise ExportNotReady(f"Export {export_id} is {record.state}. Wait until it is ready.")
        if record.state is not ExportState.READY or record.port is None:
            raise ExportOver(f"Export {export_id} is {record.state}. Ask for a new one.")
        if is_writing and record.access is Access.READ_ONLY:
            raise UnsupportedAccess(f"Export {export_id} is read-only. Ask for one with read-write or scratch access.")
        return self._servers.transfer(record.id, record.name, record.port)

    def follow(self, export_id: str) -> Future[Export]:
        """Done when the export is ready or over, at once if it is so already. Cancel it to stop waiting."""
        future = self.follow_new(export_id)
        try:
            export = self.get(export_id)
        except CloudManagerError:
            self._remove(export_id, future)
            raise
        if not export.state.is_starting:
            self._complete(export)
        return future

    def follow_new(self, export_id: str) -> Future[Export]:
        """As `follow`, for an export that is about to be claimed under that id."""
        future: Future[Export] = Future()
        future.add_done_callback(lambda done: self._remove(export_id, done))
        with self._lock:
            self._waiting.setdefault(export_id, set()).add(future)
        return future

    def wait(self, export_id: str, timeout: float) -> Export:
        """The export once it is ready or over, or as it is after `timeout` seconds."""
        future = self.follow(export_id)
        try:
            return future.result(timeout)
        except TimeoutError:
            return self.get(export_id)
        finally:
            self._remove(export_id, future)

    def changed(self, export_id: str) -> None:
        """The state of an export has changed: who waits is answered if it is ready or over."""
        if self._is_awaited(export_id) and not (export := self.get(export_id)).state.is_starting:
            self._complete(export)

    def became_ready(self, record: ExportRecord) -> None:
        if self._is_awaited(record.id):
            self._complete(self.view(record))

    def stop_waiting(self) -> None:
        """Cancels every future."""
        with self._lock:
            futures = [future for waiting in self._waiting.values() for future in waiting]
        for future in futures:
            future.cancel()

    def _is_awaited(self, export_id: str) -> bool:
        with self._lock:
            return export_id in self._waiting

    def _complete(self, export: Export) -> None:
        with self._lock:
            futures = self._waiting.pop(export.id, set())
        for future in futures:
            if future.set_running_or_notify_cancel():
                future.set_result(export)

    def _remove(self, export_id: str, future: Future[Export]) -> None:
        with self._lock:
            futures = self._waiting.get(export_id, set())
            futures.discard(future)
            if not futures:
                self._waiting.pop(export_id, None)
