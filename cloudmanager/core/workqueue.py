"""A queue of keys, each worked on by one thread at a time, now or later."""

import heapq
import threading
from collections.abc import Callable

_FEW = 64


class WorkQueue:
    """Collects keys that want work.

    A key that is put while it is being worked on comes up again afterwards; putting it twice is putting it once.
    `clock` gives seconds; a key is due when it has reached the time that the key was put for.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._due: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []
        self._working: set[str] = set()
        self._closed = False

    def put(self, key: str, due: float | None = None) -> None:
        """Asks for work on the key, now or at `due`. The earliest request counts."""
        when = self._clock() if due is None else due
        with self._changed:
            if when < self._due.get(key, float("inf")):
                self._due[key] = when
                heapq.heappush(self._order, (when, key))
                self._forget_superseded()
            # Also when it was due earlier: after a suspend a waiting thread may have missed that.
            self._changed.notify()

    def take(self) -> str | None:
        """Waits for a key that is due and not being worked on. None when the queue is closed."""
        with self._changed:
            while not self._closed:
                key, wait = self._next()
                if key is not None:
                    self._working.add(key)
                    return key
                self._changed.wait(wait)
        return None

    def done(self, key: str) -> None:
        """The work on a key that was taken is over."""
        with self._changed:
            self._working.discard(key)
            if key in self._due:
                heapq.heappush(self._order, (self._due[key], key))
            self._changed.notify()

    @property
    def working(self) -> frozenset[str]:
        """The keys that were taken and are not done."""
        with self._changed:
            return frozenset(self._working)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _forget_superseded(self) -> None:
        """Drops entries for a far time whose key was put again for an earlier one."""
        if len(self._order) > 2 * len(self._due) + _FEW:
            self._order = [(when, key) for key, when in self._due.items()]
            heapq.heapify(self._order)

    def _next(self) -> tuple[str | None, float | None]:
        """A key to work on, or how long to wait for the next one."""
        now = self._clock()
        while self._order:
            when, key = self._order[0]
            if self._due.get(key) != when or key in self._working:  # superseded, or `done` will push it again
                heapq.heappop(self._order)
            elif when > now:
                return None, when - now
            else:
                heapq.heappop(self._order)
                del self._due[key]
                return key, None
        return None, None
