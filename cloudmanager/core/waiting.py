"""Callers that wait for an export to be ready or over."""

import threading
from concurrent.futures import Future

from cloudmanager.core.model import Export


class Waiting:
    """Who waits for which export."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: dict[str, set[Future[Export]]] = {}

    def add(self, export_id: str) -> Future[Export]:
        future: Future[Export] = Future()
        future.add_done_callback(lambda done: self.remove(export_id, done))
        with self._lock:
            self._futures.setdefault(export_id, set()).add(future)
        return future

    def has(self, export_id: str) -> bool:
        with self._lock:
            return export_id in self._futures

    def settle(self, export_id: str, export: Export) -> None:
        with self._lock:
            futures = self._futures.pop(export_id, set())
        for future in futures:
            if future.set_running_or_notify_cancel():
                future.set_result(export)

    def remove(self, export_id: str, future: Future[Export]) -> None:
        with self._lock:
            futures = self._futures.get(export_id, set())
            futures.discard(future)
            if not futures:
                self._futures.pop(export_id, None)

    def cancel_all(self) -> None:
        with self._lock:
            futures = [future for waiting in self._futures.values() for future in waiting]
        for future in futures:
            future.cancel()
