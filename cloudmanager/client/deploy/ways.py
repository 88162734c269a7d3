"""Which way content goes to the target: over NBD, or compressed to the service. Measured when the writing begins."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cloudmanager.client.deploy.ends import Writer
from cloudmanager.client.deploy.errors import ConnectionLost
from cloudmanager.client.deploy.nbd_ends import NbdTarget, NbdWriter
from cloudmanager.client.deploy.result import Way
from cloudmanager.client.deploy.upload import NotOffered, ServiceLine
from cloudmanager.client.deploy.wire_writer import Packer, WireWriter
from cloudmanager.client.through import Through
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.extents import Extent
from cloudmanager.transfer.libnbd import Patience

MIB = 1024 * 1024
_STEP_BYTES = MIB
"""So much is under way while it is measured: a fast link is kept busy, and on a slow one it is soon there."""
_WARM_UP_BYTES = MIB
"""At the start a connection is slower."""
_LEAST_BYTES = 4 * MIB
_LEAST_SECONDS = 0.1
_LONGEST_SECONDS = 1.0
_FAST_ENOUGH = 400 * MIB
"""Bytes per second over NBD that compression would not reach."""
_MARGIN = 1.1
"""NBD costs less processor time, so the other way has to be faster by this."""
_SLOW = 60 * MIB
"""Bytes per second over NBD up to which there is time to compress better. Beyond level 3 little is gained."""
_SLOW_LEVEL, _FAST_LEVEL = 3, 1
_WAIT_SECONDS = 0.25


class Ways:
    """Shared by the threads that write. The first one measures, the others wait for what it finds out."""

    def __init__(self, target: NbdTarget, through: Through) -> None:
        self._target = target
        self._through = through
        self._changed = threading.Condition()
        self._is_measuring = False
        self.level = _FAST_LEVEL
        self.chosen: Way | None = None
        self._remark = ""

    @contextmanager
    def writer(self, patience: Patience) -> Iterator[Writer]:
        """Raises ConnectionLost, NotOffered."""
        if self._is_first(patience):
            with self._measuring(patience) as writer:
                yield writer
        elif self.chosen is Way.COMPRESSED:
            with ExitStack() as stack, self._falling_back():
                yield self.wire(stack, patience)
        else:
            with self._target.writer(patience) as nbd:
                yield nbd

    def wire(self, stack: ExitStack, patience: Patience) -> WireWriter:
        """Raises ModuleNotFoundError, ConnectionLost."""
        line = stack.enter_context(ServiceLine(self._through, patience))
        line.connect()
        return WireWriter(line, Packer(self.level), lambda: stack.enter_context(self._target.writer(patience)))

    def choose(self, way: Way, remark: str = "") -> None:
        with self._changed:
            self.chosen, self._remark = way, remark
            self._changed.notify_all()

    def take_remark(self) -> str:
        """Why, once."""
        remark, self._remark = self._remark, ""
        return remark

    def _is_first(self, patience: Patience) -> bool:
        with self._changed:
            while self.chosen is None and self._is_measuring:
                patience.check()
                self._changed.wait(_WAIT_SECONDS)
            if self.chosen is not None:
                return False
            self._is_measuring = True
            return True

    @contextmanager
    def _falling_back(self) -> Iterator[None]:
        try:
            yield
        except NotOffered as error:
            self.choose(Way.NBD, f"The service takes no compressed content, so it goes over NBD: {error.detail}")
            raise

    @contextmanager
    def _measuring(self, patience: Patience) -> Iterator[Writer]:
        """Who measured all its content without an end has had little of it; who failed leaves it to the next one."""
        try:
            with self._target.writer(patience) as nbd, ExitStack() as stack, self._falling_back():
                yield _Measuring(self, nbd, stack, patience)
            if self.chosen is None:
                self.choose(Way.NBD)
        finally:
            with self._changed:
                self._is_measuring = False
                self._changed.notify_all()


class _Measuring:
    """A writer that measures both ways on content, and then goes the faster one."""

    def __init__(self, ways: Ways, nbd: NbdWriter, stack: ExitStack, patience: Patience) -> None:
        self._ways = ways
        self._nbd = nbd
        self._stack = stack
        self._patience = patience
        self._current: NbdWriter | WireWriter = nbd
        self._pace = _Pace()
        self._nbd_rate = 0.0
        self._free: list[Buffer] = []
        self.extents, self.zero, self.trim, self.flush = nbd.extents, nbd.zero, nbd.trim, nbd.flush

    def begin(self, buffer: Buffer, at: int, piece: Extent) -> None:
        self._current.begin(buffer, at, piece)
        if self._ways.chosen is None and self._pace.sent(piece.length):
            self._take_stock()

    def reclaim(self) -> Buffer:
        return self._free.pop() if self._free else self._current.reclaim()

    def settle(self) -> list[Buffer]:
        freed, self._free = self._free, []
        return [*freed, *self._current.settle(), *self._nbd.settle()]

    def _take_stock(self) -> None:
        """Everything that was sent is there."""
        self._free.extend(self._current.settle())
        self._pace.arrived()
        if self._current is self._nbd:
            self._after_nbd()
        elif self._pace.is_over:
            self._choose(self._pace.rate)

    def _after_nbd(self) -> None:
        if self._pace.bytes >= _LEAST_BYTES and self._pace.rate >= _FAST_ENOUGH:
            self._ways.choose(Way.NBD)
        elif self._pace.is_over:
            self._nbd_rate = self._pace.rate
            self._ways.level = _SLOW_LEVEL if self._nbd_rate < _SLOW else _FAST_LEVEL
            self._begin_wire()

    def _begin_wire(self) -> None:
        try:
            self._current = self._ways.wire(self._stack, self._patience)
            self._pace = _Pace(max(self._pace.bytes, _LEAST_BYTES))  # in one request, as later
        except ModuleNotFoundError:
            self._ways.choose(
                Way.NBD, "Content is not compressed: pip install 'cloudmanager[deploy]' would allow to try it."
            )
        except ConnectionLost as error:
            self._ways.choose(Way.NBD, f"Content goes over NBD: {error.detail}")

    def _choose(self, wire_rate: float) -> None:
        is_faster = wire_rate > _MARGIN * self._nbd_rate
        rates = f"{wire_rate / MIB:.0f} MiB/s compressed, {self._nbd_rate / MIB:.0f} over NBD"
        if is_faster:
            self._ways.choose(Way.COMPRESSED, f"Content goes compressed to the service: {rates}.")
            return
        self._current = self._nbd
        self._ways.choose(Way.NBD, f"Content goes over NBD: {rates}.")


class _Pace:
    """Bytes over time, without the first ones."""

    def __init__(self, step_bytes: int = _STEP_BYTES) -> None:
        """`step_bytes` are sent before they are waited for, once the first ones are there."""
        self._step_bytes = step_bytes
        self._since = time.monotonic()
        self._under_way = 0
        self._is_warm = False
        self.bytes = 0
        self.seconds = 0.0

    def sent(self, count: int) -> bool:
        """Whether it is time to wait for what is under way."""
        self._under_way += count
        return self._under_way >= (max(self._step_bytes, self.bytes) if self._is_warm else _WARM_UP_BYTES)

    def arrived(self) -> None:
        if self._is_warm:
            self.bytes += self._under_way
            self.seconds = time.monotonic() - self._since
        else:
            self._is_warm, self._since = True, time.monotonic()
        self._under_way = 0

    @property
    def rate(self) -> float:
        return self.bytes / max(self.seconds, 1e-6)

    @property
    def is_over(self) -> bool:
        return self.seconds >= (_LEAST_SECONDS if self.bytes >= _LEAST_BYTES else _LONGEST_SECONDS)
