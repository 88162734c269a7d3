"""How a deployment is to be done."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias, TypedDict

from cloudmanager.client.service import UploadEndpoint

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
    """A message for the user: a connection that is being made again, a journal that was found."""


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


class Format(StrEnum):
    """How an image's bytes are to be taken."""

    FOUND = "found"
    """As the format that they look like. What is not a disk is refused."""
    RAW = "raw"
    """As a disk, whatever they look like."""


def _ignore(progress: Progress) -> None:
    del progress


@dataclass(frozen=True)
class Options:
    """What `deploy` accepts besides its source and target."""

    image_format: Format = Format.FOUND
    """What the image is. By default its bytes decide."""
    overwrite: bool = False
    """Write to a target that is not empty."""
    any_sector_size: bool = False
    """Write an image whose partition table was made for sectors of another size than the target's."""
    verify: bool = False
    """Read the target back and compare it with the image."""
    grow: bool = False
    """Let the last partition and its file system fill the target."""
    resume: bool = True
    """Go on where an earlier run ended that was cut off. Otherwise that run is forgotten."""
    skip_bad: bool = False
    """Go on around ranges of the image that cannot be read, and write zeros there; the result lists them."""
    connections: int = 4
    """To the target and the source each; fewer where a server accepts fewer."""
    reconnect_seconds: float = 60.0
    """How long a lost connection is tried again without any success."""
    progress: Listener = _ignore
    """Called in the calling thread, a few times in each second. What it raises ends the deployment."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set it from another thread or a signal handler to end the deployment."""
    source_id: str = ""
    """What names the content of an NBD source, if its address does not."""
    target_id: str = ""
    """What names an NBD target, if its address does not: an address may change when the export is made anew."""
    upload_via: UploadEndpoint | None = None
    """The service that exports the target: content may go through it, compressed, and checksums come from it."""
    journal_directory: Path | None = None
    """Where is kept what was written. None: $XDG_STATE_HOME/cloudmanager/deployments."""


class DeployOptions(TypedDict, total=False):
    """The keywords of `deploy`, as Options describes them."""

    image_format: Format
    overwrite: bool
    any_sector_size: bool
    verify: bool
    grow: bool
    resume: bool
    skip_bad: bool
    connections: int
    reconnect_seconds: float
    progress: Listener
    cancelled: threading.Event
    source_id: str
    target_id: str
    upload_via: UploadEndpoint | None
    journal_directory: Path | None


class Route(StrEnum):
    """How content goes to a target."""

    DIRECT = "direct"
    """To a device or file of this machine."""
    NBD = "nbd"
    COMPRESSED = "compressed"
    """To the service that exports it, which writes it."""


@dataclass(frozen=True)
class Growth:
    """What filled the target."""

    partition: int | None
    """None: the disk has no partition table, and the file system is all of it."""
    before_bytes: int
    after_bytes: int
    file_system: str | None
    """The one that was grown with it. None: there is none of the kinds that can be grown."""


@dataclass(frozen=True)
class BadRange:
    """Bytes of the image that could not be read. The target has zeros there."""

    offset: int
    length: int


@dataclass(frozen=True)
class Result:
    """The image is on the target, and durable."""

    size_bytes: int
    """Of the image."""
    written_bytes: int
    """Sent to the target by this run; the rest was zero, or there already."""
    resumed_bytes: int
    """What an earlier run had written."""
    seconds: float
    is_verified: bool
    route: Route = Route.NBD
    growth: Growth | None = None
    bad_ranges: tuple[BadRange, ...] = ()
    """In order; those that an earlier run of the same deployment has skipped are among them."""
