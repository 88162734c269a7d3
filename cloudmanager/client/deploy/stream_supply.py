"""Hands out the units of a stream."""

import threading
from collections.abc import Callable, Iterable

from cloudmanager.client.deploy.stream import UNIT_BYTES, StreamReader, StreamSource
from cloudmanager.client.deploy.units import Unit, covered
from cloudmanager.transfer.extents import Extent
from cloudmanager.transfer.reading import Reader


class StreamSupply:
    """Each unit is in the memory of the reader that took it, and nowhere else."""

    def __init__(self, source: StreamSource, reserve: Callable[[int], None], target_bytes: Callable[[], int]) -> None:
        """`reserve` is told how far the image reaches so far, and raises if the target does not."""
        self._source = source
        self._reserve = reserve
        self._target_bytes = target_bytes
        self._lock = threading.Lock()
        self._next = 0
        self._has_ended = False
        self.size_bytes = 0
        self.doubtful: list[Unit] = []
        """Acknowledged, but perhaps lost with a server: to be looked at before the end."""

    def take(self, reader: Reader) -> Unit | None:
        if not isinstance(reader, StreamReader):
            raise TypeError("units of a stream are in its reader's memory")
        with self._lock:
            if self._has_ended:
                return None
            offset = self._next * UNIT_BYTES
            length = reader.load(self._source.stream, offset)
            self._has_ended = reader.is_at_end(self._source.stream)
            if self._has_ended:
                length = self._end(reader, offset, length)
            if not length:
                return None
            self.size_bytes = -(-(offset + length) // 512) * 512
            self._reserve(self.size_bytes)
            end = covered(self.size_bytes, self._target_bytes())
            unit = Unit(self._next, Extent(offset, end - offset))
            self._next += 1
            return unit

    def _end(self, reader: StreamReader, offset: int, length: int) -> int:
        """How much of the last unit is the disk's: some formats end with a mark of their own."""
        whole = self._source.size_of(offset + length, reader.last(length)) - offset
        reader.cut(whole, length)
        return whole

    def put_back(self, units: Iterable[Unit]) -> None:
        with self._lock:
            self.doubtful.extend(units)
