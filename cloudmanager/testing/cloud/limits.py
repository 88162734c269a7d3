"""Request limits of an emulated cloud: token buckets, by the wall clock, whatever the pace of the emulator."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """One bucket: full at first."""

    policy: str
    """The cloud's name for it."""
    key: str
    """What it belongs to: a machine, a subscription and region, an account."""
    burst: int
    refill_per_minute: float


@dataclass(frozen=True)
class Exceeded:
    """A bucket is empty."""

    limit: Limit
    seconds: float
    """Until it has a token again."""


class Limits:
    """The buckets of one cloud. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._is_lifted = False
        self._levels: dict[tuple[str, str], tuple[float, float]] = {}
        """Tokens, and when they were counted."""
        self._lock = threading.Lock()

    def lift(self) -> None:
        """From now on nothing is limited."""
        self._is_lifted = True

    def take(self, limits: Sequence[Limit]) -> Exceeded | list[tuple[Limit, int]]:
        """A token of each bucket, or of none when one of them is empty. Returns what remains in each."""
        if self._is_lifted:
            return []
        with self._lock:
            now = self._clock()
            levels = {limit: self._level(limit, now) for limit in limits}
            for limit, level in levels.items():
                if level < 1:
                    return Exceeded(limit, (1 - level) * 60 / limit.refill_per_minute)
            for limit, level in levels.items():
                self._levels[limit.policy, limit.key] = (level - 1, now)
            return [(limit, int(level - 1)) for limit, level in levels.items()]

    def _level(self, limit: Limit, now: float) -> float:
        level, at = self._levels.get((limit.policy, limit.key), (float(limit.burst), now))
        return min(float(limit.burst), level + (now - at) * limit.refill_per_minute / 60)
