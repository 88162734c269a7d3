"""One look at something in the cloud that serves all who want to know it at the same time."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Seen = TypeVar("Seen")


class SharedLook(Generic[Seen]):
    """Callers say how old an answer may be. Those that wait at the same time share one call. Thread-safe."""

    def __init__(self, call: Callable[[], Seen]) -> None:
        self._call = call
        self._seen: Seen | None = None
        self._began = float("-inf")
        """When the call began that `_seen` is the answer of, on the monotonic clock."""
        self._earliest = float("-inf")
        self._is_looking = False
        self._waiting = 0
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """How many wait for the look of another thread."""
        with self._changed:
            return self._waiting

    def look(self, max_age: float = 0.0) -> Seen:
        """What a call has answered that began at most `max_age` seconds ago. Raises what the call raises."""
        wanted = time.monotonic() - max_age
        with self._changed:
            while True:
                if self._seen is not None and self._began >= max(wanted, self._earliest):
                    return self._seen
                if not self._is_looking:
                    break
                self._waiting += 1
                self._changed.wait()
                self._waiting -= 1
            self._is_looking = True
        began = time.monotonic()
        seen = None
        try:
            seen = self._call()
            return seen
        finally:
            with self._changed:
                self._is_looking = False
                if seen is not None:
                    self._seen, self._began = seen, began
                self._changed.notify_all()

    def latest(self, max_age: float) -> Seen | None:
        """What was seen at most `max_age` seconds ago, if anything; makes no call."""
        with self._changed:
            is_new = self._began >= max(time.monotonic() - max_age, self._earliest)
            return self._seen if is_new else None

    def outdate(self) -> None:
        """Something has changed: what was seen before now is too old for anybody."""
        with self._changed:
            self._earliest = time.monotonic()
