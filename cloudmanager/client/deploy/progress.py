"""What a deployment tells while it runs."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

_WINDOW_SECONDS = 10.0


class Phase(StrEnum):
    """In this order; some are left out."""

    CHECKING = "checking"
    """The image and the target are looked at; nothing is written."""
    FETCHING = "fetching"
    """An image that cannot be read from its start to its end is stored first."""
    WRITING = "writing"
    FLUSHING = "flushing"
    VERIFYING = "verifying"
    GROWING = "growing"


@dataclass(frozen=True)
class Progress:
    """How far a phase has come. Bytes are those of content: holes do not count."""

    phase: Phase
    done_bytes: int = 0
    total_bytes: int | None = None
    """None: a stream, whose end is not known."""
    bytes_per_second: float = 0.0
    """Of the last ten seconds."""
    fraction: float | None = None
    """From 0 to 1. Of a compressed file it is the part that was read."""
    seconds_left: float | None = None
    remark: str = ""
    """Something that a person should know: a connection that is being made again, a journal that was found."""


Listener: TypeAlias = Callable[[Progress], None]


class Meter:
    """Bytes over time."""

    def __init__(self, phase: Phase, total_bytes: int | None) -> None:
        self._phase = phase
        self._total = total_bytes
        self._began = time.monotonic()
        self._readings: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def read(self, done: int, fraction: float | None = None, remark: str = "") -> Progress:
        now = time.monotonic()
        self._readings.append((now, done))
        while len(self._readings) > 2 and now - self._readings[0][0] > _WINDOW_SECONDS:
            self._readings.popleft()
        then, before = self._readings[0]
        rate = (done - before) / (now - then) if now > then else 0.0
        if fraction is None and self._total is not None:
            fraction = done / self._total if self._total else 1.0
        return Progress(self._phase, done, self._total, rate, fraction, self._left(now, done, rate, fraction), remark)

    def _left(self, now: float, done: int, rate: float, fraction: float | None) -> float | None:
        if self._total is not None and rate > 0:
            return max(0.0, (self._total - done) / rate)
        return (now - self._began) * (1 / fraction - 1) if self._total is None and fraction else None
