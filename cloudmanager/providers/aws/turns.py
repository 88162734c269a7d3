"""One lock per volume, for as long as somebody uses it."""

import threading
from weakref import WeakValueDictionary


class Turns:
    """Thread-safe."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._guard = threading.Lock()

    def of(self, key: str) -> threading.Lock:
        """The lock of a key: the same one to all who hold it or wait for it."""
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())
