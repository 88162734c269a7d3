"""The route of content to the target: over NBD, or compressed to the service. Measured when the writing begins."""

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from cloudmanager.client.deploy.ends import Writer
from cloudmanager.client.deploy.errors import ConnectionLost
from cloudmanager.client.deploy.nbd_ends import NbdTarget, NbdWriter
from cloudmanager.client.deploy.options import Route
from cloudmanager.client.deploy.upload import NotOffered, Packer, ServiceLine, WireWriter
from cloudmanager.client.service import UploadEndpoint
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.extents import Extent
from cloudmanager.transfer.libnbd import Timeouts

_PIECES = 8
"""As long as requests are; the threads that write add them, each from where it is."""
_ALL_THE_WORK = 1.6
"""Processor time to read, compress and send, in times of what compression alone takes."""


class ContentSample:
    """The last pieces that were sent. For several threads."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque(maxlen=_PIECES)

    def add(self, piece: memoryview) -> None:
        self._pieces.append(bytes(piece))

    def promise(self, link_rate: float, level: int) -> float:
        """Bytes of content per second, if nothing but the link and this machine's processors held it back.

        Raises ModuleNotFoundError.
        """
        import zstandard  # noqa: PLC0415 # an extra, and needed on slow links only

        compressor = zstandard.ZstdCompressor(level=level)
        pieces = list(self._pieces)
        began = time.thread_time()
        packed = sum(len(compressor.compress(piece)) for piece in pieces)
        spent = max(time.thread_time() - began, 1e-6)
        plain = sum(map(len, pieces))
        return min(link_rate * plain / max(packed, 1), plain / (_ALL_THE_WORK * spent) * len(os.sched_getaffinity(0)))


MIB = 1024 * 1024
STEP_BYTES = MIB // 2
"""So much is under way while it is measured: a fast link is kept busy, and on a slow one it is soon there."""
_WARM_UP_BYTES = MIB // 2
"""At the start a connection is slower."""


class Pace:
    """Measures bytes over time, without the first ones, from what was sent and when all of it had arrived."""

    def __init__(self, step_bytes: int = STEP_BYTES) -> None:
        """`step_bytes` are sent before they are waited for, once the first ones are there."""
        self._step_bytes = step_bytes
        self._is_warm = False
        self.since = time.monotonic()
        """When the first ones had arrived."""
        self.under_way = 0
        self.bytes = 0
        self.seconds = 0.0

    def sent(self, count: int) -> bool:
        """Whether it is time to wait for what is under way."""
        self.under_way += count
        return self.under_way >= (max(self._step_bytes, self.bytes) if self._is_warm else _WARM_UP_BYTES)

    def arrived(self) -> None:
        if self._is_warm:
            self.bytes += self.under_way
            self.seconds = time.monotonic() - self.since
        else:
            self._is_warm, self.since = True, time.monotonic()
        self.under_way = 0

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.bytes / max(self.seconds, 1e-6)


@dataclass(frozen=True)
class Comparison:
    """How long each route is measured, and what decides between them."""

    wire_step_bytes: int = 8 * MIB
    """Of one request while it is measured: each has to begin and to end, and later ones are longer. With 4 MiB, 136
    MiB/s were measured where 189 followed."""
    least_bytes: int = MIB // 2
    """Of a thread."""
    least_seconds: float = 0.2
    longest_seconds: float = 1.0
    fast_enough: float = 400 * MIB
    """Bytes per second over NBD that compression would not reach."""
    worth_a_try: float = 1.3
    """What compression promises has to be so much more than NBD's rate: it is the most that can be hoped for."""
    margin: float = 1.0
    """How much faster the other route has to be. It is a little faster than it is measured to be, but takes more of the
    processors."""


COMPARISON = Comparison()
_SLOW = 60 * MIB
"""Bytes per second over NBD up to which there is time to compress better. Beyond level 3 little is gained."""
_SLOW_LEVEL, _FAST_LEVEL = 3, 1


class RouteChoice:
    """Shared by the threads that write. All use the route that is being measured, NBD first, until one is chosen."""

    def __init__(self, target: NbdTarget, upload_via: UploadEndpoint, comparison: Comparison = COMPARISON) -> None:
        self.comparison = comparison
        self._target = target
        self._upload_via = upload_via
        self._lock = threading.RLock()
        self._measuring: set[_ChangingWriter] = set()
        self._reported: set[_ChangingWriter] = set()
        self._left: list[Pace] = []
        self._nbd_rate = 0.0
        self._remark = ""
        self.sample = ContentSample()
        self.level = _FAST_LEVEL
        self.current = Route.NBD
        self.is_chosen = False

    @contextmanager
    def writer(self, timeouts: Timeouts) -> Iterator[Writer]:
        """Raises ConnectionLost, NotOffered."""
        with ExitStack() as stack, self._falling_back():
            if self.is_chosen and self.current is Route.COMPRESSED:
                yield self.wire(stack, timeouts)
                return
            writer = _ChangingWriter(self, stack.enter_context(self._target.writer(timeouts)), stack, timeouts)
            stack.callback(self._leave, writer)
            yield writer

    def wire(self, stack: ExitStack, timeouts: Timeouts) -> WireWriter:
        """Raises ModuleNotFoundError, ConnectionLost."""
        line = stack.enter_context(ServiceLine(self._upload_via, timeouts))
        line.connect()
        return WireWriter(line, Packer(self.level), lambda: stack.enter_context(self._target.writer(timeouts)))

    def choose(self, route: Route, remark: str = "") -> None:
        with self._lock:
            self.current, self.is_chosen, self._remark = route, True, remark

    def take_remark(self) -> str:
        """Why, once."""
        remark, self._remark = self._remark, ""
        return remark

    def join(self, writer: "_ChangingWriter") -> None:
        """It is one of those whose rates are added up."""
        with self._lock:
            self._measuring.add(writer)

    def record_arrival(self, writer: "_ChangingWriter") -> None:
        """Another part of what it sent has arrived."""
        pace = writer.pace
        with self._lock:
            if self.is_chosen or writer.route is not self.current or not pace.bytes:
                return
            self._reported.add(writer)
            rate = self._rate()
            if (
                self.current is Route.NBD
                and pace.bytes >= self.comparison.least_bytes
                and rate >= self.comparison.fast_enough
            ):
                self.choose(Route.NBD)
            elif self._is_over(pace):
                self._judge(rate)

    def _is_over(self, pace: Pace) -> bool:
        if pace.seconds >= self.comparison.longest_seconds:
            return True
        least = self.comparison
        is_long = pace.bytes >= least.least_bytes and pace.seconds >= least.least_seconds
        return is_long and self._measuring <= self._reported

    def _rate(self) -> float:
        """Of all. Who has left has sent nothing since, while the others had more of the link."""
        now = time.monotonic()
        gone = sum(pace.bytes / max(now - pace.since, 1e-6) for pace in self._left)
        return gone + sum(writer.pace.rate for writer in self._reported)

    def _judge(self, rate: float) -> None:
        if self.current is Route.NBD:
            self._nbd_rate = rate
            self._after_nbd()
            return
        rates = f"{rate / MIB:.0f} MiB/s compressed, {self._nbd_rate / MIB:.0f} over NBD"
        if rate > self.comparison.margin * self._nbd_rate:
            self.choose(Route.COMPRESSED, f"Content goes compressed to the service: {rates}.")
        else:
            self.choose(Route.NBD, f"Content goes over NBD: {rates}.")

    def _after_nbd(self) -> None:
        self.level = _SLOW_LEVEL if self._nbd_rate < _SLOW else _FAST_LEVEL
        try:
            promised = self.sample.promise(self._nbd_rate, self.level)
        except ModuleNotFoundError:
            remark = "Content is not compressed: pip install 'cloudmanager[deploy]' allows to try it."
            self.choose(Route.NBD, remark)
            return
        if promised < self.comparison.worth_a_try * self._nbd_rate:
            self.choose(
                Route.NBD, f"Content goes over NBD, {self._nbd_rate / MIB:.0f} MiB/s: compression gains nothing."
            )
            return
        self._measuring.clear()
        self._reported.clear()
        self._left.clear()
        self.current = Route.COMPRESSED
        self._remark = f"Content goes compressed to the service for a try: {self._nbd_rate / MIB:.0f} MiB/s over NBD."

    def _leave(self, writer: "_ChangingWriter") -> None:
        with self._lock:
            self._measuring.discard(writer)
            if writer in self._reported:
                self._reported.discard(writer)
                self._left.append(writer.pace)

    @contextmanager
    def _falling_back(self) -> Iterator[None]:
        try:
            yield
        except NotOffered as error:
            self.choose(Route.NBD, f"The service takes no compressed content, so it goes over NBD: {error.detail}")
            raise


class _ChangingWriter:
    """One thread's. It goes the current way, and until one is chosen it measures how fast that is."""

    def __init__(self, routes: RouteChoice, nbd: NbdWriter, stack: ExitStack, timeouts: Timeouts) -> None:
        self._routes = routes
        self._nbd = nbd
        self._stack = stack
        self._timeouts = timeouts
        self._writer: NbdWriter | WireWriter = nbd
        self._free: list[Buffer] = []
        self._has_joined = False
        self.route = Route.NBD
        self.pace = Pace()
        self.extents, self.zero, self.trim, self.flush = nbd.extents, nbd.zero, nbd.trim, nbd.flush

    def begin(self, buffer: Buffer, at: int, piece: Extent) -> None:
        if self.route is not self._routes.current:
            self._change()
        self._writer.begin(buffer, at, piece)
        if not self._routes.is_chosen:
            self._measure(buffer.view[at : at + piece.length])

    def reclaim(self) -> Buffer:
        return self._free.pop() if self._free else self._writer.reclaim()

    def settle(self) -> list[Buffer]:
        self._take_stock()
        freed, self._free = self._free, []
        return [*freed, *self._nbd.settle()]

    def _measure(self, content: memoryview) -> None:
        if not self._has_joined:
            self._has_joined = True
            self._routes.join(self)
        if self.route is Route.NBD:
            self._routes.sample.add(content)
        if self.pace.sent(len(content)):
            self._take_stock()

    def _take_stock(self) -> None:
        """Everything that was sent is there."""
        self._free.extend(self._writer.settle())
        if self.pace.under_way:
            self.pace.arrived()
            self._routes.record_arrival(self)

    def _change(self) -> None:
        self._free.extend(self._writer.settle())
        route = self._routes.current
        self._writer = self._nbd if route is Route.NBD else self._begun_wire()
        self.route = Route.NBD if self._writer is self._nbd else route
        self.pace = Pace(STEP_BYTES if route is Route.NBD else self._routes.comparison.wire_step_bytes)
        self._has_joined = False

    def _begun_wire(self) -> NbdWriter | WireWriter:
        try:
            return self._routes.wire(self._stack, self._timeouts)
        except ConnectionLost as error:
            self._routes.choose(Route.NBD, f"Content goes over NBD: {error.detail}")
            return self._nbd
