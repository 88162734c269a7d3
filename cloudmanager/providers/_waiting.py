"""Waiting for a cloud, with a bound."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Seen = TypeVar("Seen")


class TimedOut(Exception):
    """The bound was reached; the caller raises an error that explains it."""


def wait_for(look: Callable[[], Seen | None], *, timeout: float, interval: float, first: float | None = None) -> Seen:
    """Calls `look` until it answers with something, every `interval` seconds, and raises TimedOut after `timeout`.

    The first pause is `first`, and pauses double up to `interval`: what is quick is seen quickly. `look` is called
    at least once, and once more when the time is up.
    """
    deadline = time.monotonic() + timeout
    pauses = _pauses(interval if first is None else first, interval)
    while True:
        is_last = time.monotonic() >= deadline
        seen = look()
        if seen is not None:
            return seen
        if is_last:
            raise TimedOut
        time.sleep(max(0.0, min(next(pauses), deadline - time.monotonic())))


def _pauses(first: float, longest: float) -> Iterator[float]:
    pause = first
    while True:
        yield min(pause, longest)
        pause *= 2


class Deadline:
    """One bound for all the waits of a call. Starts when it is made."""

    def __init__(self, seconds: float, *, interval: float = 1.0) -> None:
        """`interval`: longest pause between two looks of `wait_for`, in seconds."""
        self._interval = interval
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, never negative."""
        return max(0.0, self._end - time.monotonic())

    def wait_for(self, look: Callable[[], Seen | None], at_most: float | None = None) -> Seen:
        """As the function of this name, with what is left of the bound. Raises TimedOut."""
        timeout = self.left if at_most is None else min(self.left, at_most)
        return wait_for(look, timeout=timeout, interval=self._interval, first=min(0.1, self._interval))
