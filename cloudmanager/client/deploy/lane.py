"""One thread's way from a reader to a writer."""

from collections import deque
from collections.abc import Callable

from cloudmanager.client.deploy.ends import Writer
from cloudmanager.client.deploy.units import Head, Unit
from cloudmanager.transfer.buffers import Buffer, parts
from cloudmanager.transfer.digests import Digester
from cloudmanager.transfer.extents import Extent, Zeros
from cloudmanager.transfer.reading import Reader, digest, read_ahead

_BUFFERS = 16


class Lane:
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

        `count` is told content that was read, and written.
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
