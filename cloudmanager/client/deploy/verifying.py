"""Compares the target with the image, by checksums of blocks."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from cloudmanager.client.deploy.copying import CopyStopped, WorkerPool
from cloudmanager.client.deploy.ends import Source, Target, Unit, reading_back
from cloudmanager.client.deploy.errors import ConnectionLost, DamagedSource, DifferenceFound
from cloudmanager.client.deploy.upload import ServiceLine
from cloudmanager.client.service import UploadEndpoint
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.digests import BLOCK_BYTES, first_difference
from cloudmanager.transfer.extents import Extent
from cloudmanager.transfer.libnbd import Timeouts
from cloudmanager.transfer.reading import Reader, digest


class Verification:
    """Reads the target, and the image where its checksums are not known from writing it. Zeros are not read."""

    def __init__(
        self,
        source: Source,
        target: Target,
        units: Sequence[Unit],
        known: dict[int, bytes],
        *,
        pool: WorkerPool,
        timeouts: Timeouts,
        connections: int,
        upload_via: UploadEndpoint | None = None,
    ) -> None:
        """`known` has the checksums of units by their index. `through` reads the target, if it does that."""
        self._upload_via = upload_via
        self._source = source
        self._target = target
        self._units = deque(units)
        self._known = known
        self._pool = pool
        self._timeouts = timeouts
        self._workers = max(1, min(connections, source.readers, target.writers))
        self._lock = threading.Lock()
        self._differences: list[Extent] = []
        self.done_bytes = 0

    def run(self, report: Callable[[], None]) -> None:
        """Raises DifferenceFound for the first range that differs, TargetUnreadable, ConnectionLost, DamagedSource."""
        self._pool.run([self._worker(number == 0) for number in range(self._workers)], report)
        if self._differences:
            first = min(self._differences, key=lambda extent: extent.offset)
            raise DifferenceFound(
                f"{self._target.name} is not like the image: the first difference is in bytes {first.offset} to "
                f"{first.end - 1}. Deploy it again, and look at the target's hardware if it happens again.",
                offset=first.offset,
                length=first.length,
            )

    def _worker(self, is_first: bool) -> Callable[[], None]:
        has_connected = is_first

        def check() -> None:
            """A server without a free connection slot may let this client wait until the others are done."""
            self._pool.check()
            if not (has_connected or self._units):
                raise CopyStopped

        def run() -> None:
            nonlocal has_connected
            timeouts = replace(self._timeouts, check=check)
            with ExitStack() as stack:
                try:
                    target = self._digests_of_target(timeouts, stack)
                    source = stack.enter_context(self._source.reader(timeouts))
                except ConnectionLost:
                    if is_first:
                        raise
                    return  # the server serves fewer clients
                has_connected = True
                self._compare_units(source, target)

        return run

    def _digests_of_target(self, timeouts: Timeouts, stack: ExitStack) -> Callable[[Extent], bytes]:
        if self._upload_via is not None:
            line = stack.enter_context(ServiceLine(self._upload_via, timeouts))
            try:
                line.digests(Extent(0, min(BLOCK_BYTES, self._target.size_bytes)))
            except ConnectionLost:  # it does not take them, or not in this moment
                pass
            else:
                return line.digests
        reader = stack.enter_context(self._target.reader(timeouts))
        free: deque[Buffer] = deque()
        return lambda extent: digest(reader, extent, free)

    def _compare_units(self, source: Reader, target: Callable[[Extent], bytes]) -> None:
        free: deque[Buffer] = deque()
        while (unit := self._next()) is not None:
            self._pool.check()
            self._compare(unit, source, target, free)

    def _next(self) -> Unit | None:
        """In order, and none after a difference: those before it are in other threads' hands already."""
        with self._lock:
            return self._units.popleft() if self._units and not self._differences else None

    def _compare(self, unit: Unit, source: Reader, target: Callable[[Extent], bytes], free: deque[Buffer]) -> None:
        wanted = self._known.get(unit.index) or self._digest_of_source(unit, source, free)
        with reading_back(self._target):
            found = target(unit.extent)
        difference = first_difference(unit.extent, wanted, found)
        with self._lock:
            self.done_bytes += unit.extent.length
            if difference is not None:
                self._differences.append(difference)

    def _digest_of_source(self, unit: Unit, source: Reader, free: deque[Buffer]) -> bytes:
        if self._source.size_bytes is None:
            raise DamagedSource("A stream cannot be read again, so an earlier run's part of it cannot be verified.")
        return digest(source, unit.extent, free)
