"""One lock per disk, within a process: one thread at a time changes the attachment of a disk."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary


class DiskLocks:
    """Locks by canonical id; one that no thread holds or waits for is forgotten. Thread-safe."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._guard = threading.Lock()

    @contextmanager
    def locked(self, canonical_id: str) -> Iterator[None]:
        with self._guard:
            lock = self._locks.setdefault(canonical_id, threading.Lock())
        with lock:
            yield
