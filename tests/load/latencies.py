"""How long the API took to answer."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, inf


@dataclass(frozen=True)
class Summary:
    """Of the answers to one kind of request, in seconds."""

    request: str
    count: int
    median: float
    p99: float
    longest: float

    def __str__(self) -> str:
        times = "".join(f"{seconds * 1000:11.1f}" for seconds in (self.median, self.p99, self.longest))
        return f"{self.request:<12}{self.count:9}{times}"


class Latencies:
    """Thread-safe."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._lock = threading.Lock()
        self._count_from = 0.0

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Answers to what was asked before the end of the block do not count: the service is being restarted."""
        self._count_from = inf
        yield
        self._count_from = time.monotonic()

    def add(self, request: str, asked: float) -> None:
        """An answer has come to what was asked at a moment of the monotonic clock."""
        with self._lock:
            if asked >= self._count_from:
                self._seconds[request].append(time.monotonic() - asked)

    def summaries(self) -> list[Summary]:
        """Of each kind, and of all at the end."""
        with self._lock:
            every = [seconds for each in self._seconds.values() for seconds in each]
            return [_summary(request, each) for request, each in sorted(self._seconds.items())] + [
                _summary("all", every)
            ]


def _summary(request: str, seconds: list[float]) -> Summary:
    ordered = sorted(seconds)
    return Summary(request, len(ordered), _percentile(ordered, 50), _percentile(ordered, 99), ordered[-1])


def _percentile(ordered: list[float], percent: int) -> float:
    return ordered[ceil(len(ordered) * percent / 100) - 1]
