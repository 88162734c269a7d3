"""One lock per disk, within a process: what is done to a disk is done by one thread at a time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary


class _Lock:
    """threading.Lock itself cannot be referred to weakly."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class DiskLocks:
    """Locks by canonical id; one that nobody holds or waits for is forgotten."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, _Lock] = WeakValueDictionary()
        self._guard = threading.Lock()

    @contextmanager
    def locked(self, canonical_id: str) -> Iterator[None]:
        with self._guard:
            entry = self._locks.setdefault(canonical_id, _Lock())
        with entry.lock:
            yield


class Turns:
    """Thread-safe."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._guard = threading.Lock()

    def of(self, key: str) -> threading.Lock:
        """The lock of a key: the same one to all who hold it or wait for it."""
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())
