"""One bound for all the waits of a call."""

import time
from collections.abc import Callable
from typing import TypeVar

from cloudmanager.providers._waiting import wait_for

Seen = TypeVar("Seen")


class Deadline:
    """Starts when it is made."""

    def __init__(self, seconds: float, *, interval: float) -> None:
        """`interval`: longest pause between two looks, in seconds."""
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._interval = interval

    @property
    def left(self) -> float:
        """Seconds, never negative."""
        return max(0.0, self._end - time.monotonic())

    def wait_for(self, look: Callable[[], Seen | None], at_most: float | None = None) -> Seen:
        """See `_waiting.wait_for`. Raises TimedOut."""
        timeout = self.left if at_most is None else min(self.left, at_most)
        return wait_for(look, timeout=timeout, interval=self._interval, first=min(0.1, self._interval))
