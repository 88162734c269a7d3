"""Copies all units, over several connections, and makes lost connections again."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace

from cloudmanager.client.deploy.ends import Head, Source, Supply, Target, Unit, Writer
from cloudmanager.client.deploy.errors import Cancelled, ConnectionLost
from cloudmanager.client.deploy.journal import Ledger
from cloudmanager.client.deploy.route import RouteChoice
from cloudmanager.transfer.buffers import Buffer, parts
from cloudmanager.transfer.digests import Digester
from cloudmanager.transfer.extents import Extent, Zeros
from cloudmanager.transfer.libnbd import Timeouts
from cloudmanager.transfer.reading import Reader, digest, read_ahead

_BUFFERS = 16


class CopyWorker:
    """Copies units: content is written, zeros are made where the target does not have them already."""

    def __init__(self, reader: Reader, writer: Writer, head: Head, *, is_blank: bool, digests: bool) -> None:
        """With `is_blank` the whole target is known to read as zero; with `digests` checksums are made on the way."""
        self.reader = reader
        self.writer = writer
        self._head = head
        self._is_blank = is_blank
        self._wants_digests = digests
        self._free = deque(Buffer() for _ in range(_BUFFERS))
        self._unit = Extent(0, 0)
        self._already_zero: Zeros | None = None

    def digest(self, unit: Unit) -> bytes:
        return digest(self.reader, unit.extent, self._free)

    def copy(self, unit: Unit, count: Callable[[int, int], None]) -> bytes:
        """Returns when the target has acknowledged all of it, with its checksums if they are wanted.

        `count` receives the content that was read and written.
        """
        self._unit, self._already_zero = unit.extent, None
        digester = Digester() if self._wants_digests else None
        extents = self.reader.extents(unit.extent)
        for piece, buffer in read_ahead(self.reader, extents, self._free, self.writer.reclaim):
            if buffer is None:
                self._zero(piece)
                if digester:
                    digester.zeros(piece.length)
                continue
            if digester:
                digester.data(buffer, piece.length)
            count(piece.length, self._write(piece, buffer))
        self._free.extend(self.writer.settle())
        return digester.digests() if digester else b""

    def _write(self, piece: Extent, buffer: Buffer) -> int:
        """The bytes sent. The buffer is free again when no write needs it: here, or with the writer."""
        buffer.writes += 1
        written = self._write_parts(piece, buffer)
        buffer.writes -= 1
        if not buffer.writes:
            self._free.append(buffer)
        return written

    def _write_parts(self, piece: Extent, buffer: Buffer) -> int:
        if self._head.takes(piece):
            self._head.keep(buffer.view, piece)
            return 0
        written = 0
        for part in parts(buffer, piece):
            if part.is_zero:
                self._zero(part)
            else:
                self.writer.begin(buffer, part.offset - piece.offset, part)
                written += part.length
        return written

    def _zero(self, extent: Extent) -> None:
        if self._is_blank:
            return
        if self._already_zero is None:
            self._already_zero = Zeros(self.writer.extents(self._unit))
        for part in self._already_zero.missing_in(extent):
            self.writer.zero(part)


_REPORT_SECONDS = 0.2


class CopyStopped(Exception):
    """Another thread has failed, or the caller has cancelled."""


@dataclass
class WorkerPool:
    """Runs functions in threads of their own."""

    cancelled: threading.Event
    """Set by the caller, from anywhere."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _errors: list[BaseException] = field(default_factory=list)
    _wakers: list[Callable[[], None]] = field(default_factory=list)

    def on_stop(self, wake: Callable[[], None]) -> None:
        """Called when the threads have to end early: it wakes those that wait for something else than `check`."""
        self._wakers.append(wake)

    def check(self) -> None:
        """Called by the threads. Raises CopyStopped."""
        if self._stop.is_set() or self.cancelled.is_set():
            raise CopyStopped

    def pause(self, seconds: float) -> None:
        """Raises CopyStopped, also while it waits."""
        self._stop.wait(seconds)
        self.check()

    def run(self, tasks: Iterable[Callable[[], None]], report: Callable[[], None]) -> None:
        """Returns when all have returned; `report` is called a few times in each second, and once when all is done.

        Raises the first error of a thread, what `report` raises, Cancelled; no thread is left then.
        """
        threads = [threading.Thread(target=self._guarded, args=(task,), name="deploy", daemon=True) for task in tasks]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(_REPORT_SECONDS)
                    if self.cancelled.is_set() or self._stop.is_set():
                        self._wake()
                    report()
        except BaseException:
            self._stop.set()
            self._wake()
            raise
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self._errors:
            raise self._errors[0]
        if self.cancelled.is_set():
            raise Cancelled("The deployment was cancelled.")
        self._stop.clear()
        report()

    def _wake(self) -> None:
        for wake in self._wakers:
            wake()

    def _guarded(self, task: Callable[[], None]) -> None:
        try:
            task()
        except CopyStopped:
            pass
        except BaseException as error:
            self._errors.append(error)
            self._stop.set()


_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0


@dataclass
class Copying:
    """The part of a deployment in which the bytes move."""

    source: Source
    target: Target
    supply: Supply
    ledger: Ledger
    head: Head
    pool: WorkerPool
    timeouts: Timeouts
    connections: int
    reconnect_seconds: float
    is_blank: bool
    """Whether the whole target was found to read as zero."""
    wants_digests: bool
    routes: RouteChoice | None = None
    """Where there is a choice."""
    is_running_out: bool = False
    """Whether the last thread that asked got no unit."""
    _remark: str = ""

    def run(self, report: Callable[[], None]) -> None:
        """Raises DeployError. Every unit was acknowledged by the target then, but need not be durable."""
        workers = max(1, min(self.connections, self.source.readers, self.target.writers))
        self.pool.run([_Attempts(self, is_first=number == 0).run for number in range(workers)], report)

    def connection_lost(self, error: ConnectionLost) -> None:
        self._remark = f"{error.detail} Trying again."
        self.supply.put_back(self.ledger.lost())

    def take_remark(self) -> str:
        """The last thing that a person should know, once."""
        remark, self._remark = self._remark, ""
        return remark or (self.routes.take_remark() if self.routes else "")

    def writer(self, timeouts: Timeouts) -> AbstractContextManager[Writer]:
        return self.routes.writer(timeouts) if self.routes else self.target.writer(timeouts)


class _Attempts:
    """One thread. A unit that it began is its own until it is finished."""

    def __init__(self, copying: Copying, *, is_first: bool) -> None:
        self._copying = copying
        self._is_first = is_first
        self._has_connected = False
        self._reader: Reader | None = None
        self._unit: Unit | None = None
        self._lost_at: float | None = None
        self._pause = _FIRST_PAUSE_SECONDS
        self._counted = (0, 0)

    def run(self) -> None:
        with ExitStack() as lasting:
            while True:
                try:
                    with ExitStack() as stack:
                        return self._work(self._open(stack, lasting))
                except ConnectionLost as error:
                    if not (self._has_connected or self._is_first):
                        return None  # the server serves fewer clients; the first thread does the work
                    self._take_back_count()
                    self._copying.connection_lost(error)
                    self._wait_or_give_up(error)

    def _open(self, stack: ExitStack, lasting: ExitStack) -> CopyWorker:
        copying = self._copying
        timeouts = replace(copying.timeouts, check=self._check_while_connecting)
        if self._reader is None or copying.source.size_bytes is not None:
            # What a stream's reader has in memory cannot be had again.
            keeper = lasting if copying.source.size_bytes is None else stack
            self._reader = keeper.enter_context(copying.source.reader(timeouts))
        writer = stack.enter_context(copying.writer(timeouts))
        self._has_connected = True
        return CopyWorker(self._reader, writer, copying.head, is_blank=copying.is_blank, digests=copying.wants_digests)

    def _check_while_connecting(self) -> None:
        """A server without a free connection slot may let this client wait until the others are done."""
        self._copying.pool.check()
        if not (self._has_connected or self._is_first) and self._copying.is_running_out:
            raise CopyStopped

    def _work(self, worker: CopyWorker) -> None:
        while self._next_unit(worker):
            self._copy(worker)
            self._lost_at, self._pause = None, _FIRST_PAUSE_SECONDS
            self._copying.ledger.commit_if_due(worker.writer.flush)

    def _next_unit(self, worker: CopyWorker) -> bool:
        self._copying.pool.check()
        if self._unit is None:
            self._unit = self._copying.supply.take(worker.reader)
            self._copying.is_running_out = self._unit is None
        return self._unit is not None

    def _copy(self, worker: CopyWorker) -> None:
        unit, ledger = self._unit, self._copying.ledger
        if unit is None:
            return
        expected = ledger.expected(unit)
        if expected and unit.index and worker.digest(unit) == expected:
            ledger.skip(unit)
        else:
            digests = worker.copy(unit, self._count)
            ledger.finish(unit, digests, self._counted[0])
        self._unit, self._counted = None, (0, 0)

    def _count(self, done_bytes: int, written_bytes: int) -> None:
        self._copying.pool.check()
        self._counted = (self._counted[0] + done_bytes, self._counted[1] + written_bytes)
        self._copying.ledger.count(done_bytes, written_bytes)

    def _take_back_count(self) -> None:
        done, _written = self._counted
        self._copying.ledger.count(-done, 0)
        self._counted = (0, 0)

    def _wait_or_give_up(self, error: ConnectionLost) -> None:
        now = time.monotonic()
        self._lost_at = self._lost_at or now
        if now - self._lost_at >= self._copying.reconnect_seconds:
            raise error
        self._copying.pool.pause(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
