"""What an emulated cloud does later: operations that run, devices that appear."""

import heapq
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)
Action = Callable[[], None]


class Timeline:
    """Runs actions when they are due, in the order of their times.

    `pace` stretches the cloud's normal durations: 1.0 as in the cloud, 0.0 at once. A frozen timeline moves only with
    `advance`.
    """

    def __init__(self, pace: float = 1.0) -> None:
        self.pace = pace
        self._ahead = 0.0
        self._frozen_at: float | None = None
        self._due: list[tuple[float, int, Action]] = []
        self._held: list[Action] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._running = False
        self._thread: threading.Thread | None = None

    def now(self) -> float:
        """Seconds on this timeline's own clock."""
        return (time.monotonic() if self._frozen_at is None else self._frozen_at) + self._ahead

    def normally(self, seconds: float, action: Action) -> None:
        """Does `action` after the time that it takes in the cloud; at once, in this thread, when the pace is 0."""
        self.after(seconds * self.pace, action)

    def after(self, seconds: float, action: Action) -> None:
        """Does `action` in `seconds`, whatever the pace; at once, in this thread, when that is 0."""
        if seconds <= 0:
            action()
            return
        with self._changed:
            heapq.heappush(self._due, (self.now() + seconds, next(self._order), action))
            self._changed.notify()

    def hold(self, action: Action) -> None:
        """Keeps `action` until `release`."""
        with self._changed:
            self._held.append(action)

    def release(self) -> None:
        """Does now what was held."""
        with self._changed:
            held, self._held = self._held, []
        for action in held:
            action()

    def freeze(self) -> None:
        """Stops the clock."""
        with self._changed:
            self._frozen_at = time.monotonic()

    def advance(self, seconds: float) -> None:
        """Moves the clock forward, and returns when all that became due is done."""
        with self._changed:
            self._ahead += seconds
        while (action := self._take_due()) is not None:
            _run(action)

    def start(self) -> None:
        self._running = True
        self._thread = threading.Thread(target=self._work, name="cloud timeline", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """What is not due yet does not happen."""
        with self._changed:
            self._running = False
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while self._running:
            action = self._take_due()
            if action is not None:
                _run(action)
                continue
            with self._changed:
                if self._running and self._until_next() > 0:
                    self._changed.wait(None if math.isinf(self._until_next()) else self._until_next())

    def _take_due(self) -> Action | None:
        with self._changed:
            if self._due and self._due[0][0] <= self.now():
                return heapq.heappop(self._due)[2]
            return None

    def _until_next(self) -> float:
        if not self._due or self._frozen_at is not None:
            return math.inf
        return self._due[0][0] - self.now()


def _run(action: Action) -> None:
    try:
        action()
    except Exception:
        log.exception("the emulated cloud failed to do what was due")
