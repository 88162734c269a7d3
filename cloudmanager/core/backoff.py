"""How long to wait before the next attempt, and how a provider's call reports that it waits."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

from cloudmanager.core.errors import CloudManagerError

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 60.0
FORGIVEN_AFTER_SECONDS = 120.0

OnWait: TypeAlias = Callable[[CloudManagerError], None]
_on_wait: ContextVar[OnWait | None] = ContextVar("on_wait", default=None)


@dataclass(frozen=True)
class Strike:
    count: int
    until: float


class Backoff:
    """Counts failures by key and doubles the wait with each, with jitter. A time without failures resets the count.

    `now` is in seconds, of any one clock that does not jump.
    """

    def __init__(self) -> None:
        self._strikes: dict[str, Strike] = {}

    def strike(self, key: str, now: float, *, at_least: float | None = None, first_is_free: bool = False) -> float:
        """Notes a failure. Returns when to try again; `at_least` is the wait that the other side requested."""
        count = self._count(key, now) + 1
        doublings = count - (2 if first_is_free else 1)
        wait = 0.0 if doublings < 0 else min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(doublings, 10))
        until = now + max(wait * random.uniform(0.5, 1.0), at_least or 0.0)  # noqa: S311 - jitter is no secret
        self._strikes[key] = Strike(count, until)
        return until

    def until(self, key: str) -> float:
        """The earliest time of the next attempt; 0 if it may be made now."""
        strike = self._strikes.get(key)
        return strike.until if strike else 0.0

    def forgive(self, key: str) -> None:
        self._strikes.pop(key, None)

    def _count(self, key: str, now: float) -> int:
        strike = self._strikes.get(key)
        return 0 if strike is None or now > strike.until + FORGIVEN_AFTER_SECONDS else strike.count


@contextmanager
def waits_reported_to(on_wait: OnWait) -> Iterator[None]:
    """`on_wait` is called with each error that a provider waits for within the block, in this thread.

    A hook that a cloud throttles waits and tries again by itself, for half a minute or so. A client that looks at the
    export meanwhile sees why.
    """
    token = _on_wait.set(on_wait)
    try:
        yield
    finally:
        _on_wait.reset(token)


def report_wait(error: CloudManagerError) -> None:
    """For a provider's hook: it waits for this error to pass before it goes on."""
    if (on_wait := _on_wait.get()) is not None:
        on_wait(error)
