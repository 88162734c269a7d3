"""Writes content as compressed frames to the service that exports the target, and everything else over NBD."""

from collections.abc import Callable
from functools import cached_property

from cloudmanager.client.deploy.nbd_ends import NbdWriter
from cloudmanager.client.deploy.upload import ServiceLine
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.extents import Extent
from cloudmanager.transfer.frames import MOST_BYTES, Encoding, Frame

_WORTH_IT = 0.95
_MOST_LEFT_OUT = 15
"""After frames that did not become shorter, so many go without an attempt."""
_KEPT_BYTES = 4 * MOST_BYTES
"""malloc keeps what is freed if a block of this size was freed before; else every frame's memory is the kernel's again,
and is made anew page by page. That took a seventh of the time (mallopt(3), M_MMAP_THRESHOLD)."""


class Packer:
    """Makes frames of bytes. For one thread."""

    def __init__(self, level: int) -> None:
        """Raises ModuleNotFoundError."""
        import zstandard  # noqa: PLC0415 # an extra, and needed on slow links only

        self._compressor = zstandard.ZstdCompressor(level=level)
        bytearray(_KEPT_BYTES)
        self._left_out = 0
        self._to_leave_out = 0

    def frame(self, offset: int, plain: memoryview) -> Frame:
        """It may refer to `plain`."""
        if self._to_leave_out:
            self._to_leave_out -= 1
            return Frame(offset, len(plain), Encoding.RAW, plain)
        body = self._compressor.compress(plain)
        if len(body) > _WORTH_IT * len(plain):
            self._left_out = min(2 * self._left_out + 1, _MOST_LEFT_OUT)
            self._to_leave_out = self._left_out
            return Frame(offset, len(plain), Encoding.RAW, plain)
        self._left_out = 0
        return Frame(offset, len(plain), Encoding.ZSTD, body)


class WireWriter:
    """One thread's. Its NBD connection is made when it is first needed."""

    def __init__(self, line: ServiceLine, packer: Packer, connect: Callable[[], NbdWriter]) -> None:
        self._line = line
        self._packer = packer
        self._connect = connect
        self._start = 0
        self._gathered = Buffer(MOST_BYTES)
        self._length = 0

    def extents(self, extent: Extent) -> list[Extent]:
        return self._nbd.extents(extent)

    def begin(self, buffer: Buffer, at: int, piece: Extent) -> None:
        """It is copied, so the buffer is free at once."""
        if piece.offset != self._start + self._length or self._length + piece.length > MOST_BYTES:
            self._send()
            self._start = piece.offset
        end = self._length + piece.length
        self._gathered.view[self._length : end] = buffer.view[at : at + piece.length]
        self._length = end

    def reclaim(self) -> Buffer:
        return Buffer()

    def settle(self) -> list[Buffer]:
        self._send()
        self._line.settle()
        return self._nbd.settle() if "_nbd" in self.__dict__ else []

    def zero(self, extent: Extent) -> None:
        self._nbd.zero(extent)

    def trim(self, extent: Extent) -> None:
        self._nbd.trim(extent)

    def flush(self) -> None:
        """What was settled, whichever way it went: qemu-nbd's flush is about all of its connections."""
        self._nbd.flush()

    @cached_property
    def _nbd(self) -> NbdWriter:
        return self._connect()

    def _send(self) -> None:
        if self._length:
            self._line.send(self._packer.frame(self._start, self._gathered.view[: self._length]))
            self._length = 0
