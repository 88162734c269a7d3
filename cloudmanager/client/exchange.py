"""What the client's logic asks of whatever sends requests: one request at a time, after a while.

A `Call` is a generator that yields a Step for each request and is sent the Reply, or has TransportFailed thrown into
it. It returns what the caller wanted. It does no input or output of its own, so that blocking and asynchronous clients
run the same logic.
"""

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

Result = TypeVar("Result")

ANSWER_SECONDS = 120.0
"""How long one answer may take. The service asks a cloud before it answers some requests."""


@dataclass(frozen=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    """Percent-encoded."""
    query: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, object] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True
    """Sent twice, it has the effect of being sent once."""
    answer_seconds: float = ANSWER_SECONDS
    expected: frozenset[int] = frozenset({200, 201})


@dataclass(frozen=True)
class Reply:
    """An answer, and when its request was sent by this machine's boot clock."""

    status: int
    headers: Mapping[str, str]
    """Their names in lower case."""
    body: bytes = field(repr=False)
    sent_at: float
    proxy: str = ""
    """Through which it came: it may be the proxy's own."""


class TransportFailed(Exception):
    """No answer. `detail` is a clause that says what was tried and what happened."""

    def __init__(self, detail: str, *, was_sent: bool, is_unfit: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.was_sent = was_sent
        """The service may have got the request."""
        self.is_unfit = is_unfit
        """What came is no answer of a service: too long, or packed."""


@dataclass(frozen=True)
class Step:
    """Send the request after `after` seconds."""

    request: Request
    after: float = 0.0


Call: TypeAlias = Generator[Step, Reply, Result]


def now() -> float:
    """Seconds of the boot clock, which goes on while the machine sleeps: claims expire meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
