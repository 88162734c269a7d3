"""How long to wait before the next try."""

import random
from dataclasses import dataclass

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 60.0
FORGIVEN_AFTER_SECONDS = 120.0


@dataclass(frozen=True)
class Strike:
    count: int
    until: float


class Backoff:
    """Counts failures by key and doubles the wait with each, jittered. A quiet time forgives them all.

    `now` is in seconds, of any one clock that does not jump.
    """

    def __init__(self) -> None:
        self._strikes: dict[str, Strike] = {}

    def strike(self, key: str, now: float, *, at_least: float | None = None, first_is_free: bool = False) -> float:
        """Notes a failure. Returns when to try again; `at_least` is the wait that the other side asked for."""
        count = self._count(key, now) + 1
        doublings = count - (2 if first_is_free else 1)
        wait = 0.0 if doublings < 0 else min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(doublings, 10))
        until = now + max(wait * random.uniform(0.5, 1.0), at_least or 0.0)  # noqa: S311 - jitter is no secret
        self._strikes[key] = Strike(count, until)
        return until

    def until(self, key: str) -> float:
        """Before then the key is not to be tried; 0 if nothing stands against it."""
        strike = self._strikes.get(key)
        return strike.until if strike else 0.0

    def forgive(self, key: str) -> None:
        self._strikes.pop(key, None)

    def _count(self, key: str, now: float) -> int:
        strike = self._strikes.get(key)
        return 0 if strike is None or now > strike.until + FORGIVEN_AFTER_SECONDS else strike.count
