"""Reads a disk piece by piece, with several requests under way, and its checksums."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Protocol

from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.digests import Digester
from cloudmanager.transfer.extents import Extent, on_grains, pieces
from cloudmanager.transfer.libnbd import Connection

_READ_AHEAD = 6


class Reader(Protocol):
    """One thread's access to bytes."""

    def extents(self, extent: Extent) -> list[Extent]:
        """The range cut into data and zeros, with borders on grains."""

    def begin(self, buffer: Buffer, piece: Extent) -> None:
        """Starts to fill the buffer. Past the end there are zeros."""

    def finish(self, buffer: Buffer) -> None:
        """Returns when the buffer is filled."""


class NbdReader:
    """Reads from an NBD server. Raises LibnbdFailure and what the connection raises."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._end = connection.size_bytes

    def extents(self, extent: Extent) -> list[Extent]:
        known = self._connection.extents(extent.offset, max(0, min(extent.end, self._end) - extent.offset))
        return on_grains(known, extent.offset, extent.end)

    def begin(self, buffer: Buffer, piece: Extent) -> None:
        length = min(piece.length, self._end - piece.offset)
        if length < piece.length:
            buffer.view[length : piece.length] = bytes(piece.length - length)
        buffer.read = self._connection.start_read(buffer.address, length, piece.offset, buffer)

    def finish(self, buffer: Buffer) -> None:
        self._connection.wait(buffer.read)


def read_ahead(
    reader: Reader, extents: list[Extent], free: deque[Buffer], wait: Callable[[], Buffer]
) -> Iterator[tuple[Extent, Buffer | None]]:
    """Each piece in order with a buffer that holds it, and each zero extent with none; several reads are under way.

    Buffers come out of `free`, or of `wait` if that is empty.
    """
    ahead: deque[tuple[Extent, Buffer | None]] = deque()
    for piece in chain.from_iterable([extent] if extent.is_zero else pieces(extent) for extent in extents):
        while len(ahead) >= _READ_AHEAD:
            yield _finished(reader, ahead.popleft())
        if piece.is_zero:
            ahead.append((piece, None))
            continue
        buffer = free.popleft() if free else wait()
        reader.begin(buffer, piece)
        ahead.append((piece, buffer))
    while ahead:
        yield _finished(reader, ahead.popleft())


def digest(reader: Reader, extent: Extent, free: deque[Buffer], check: Callable[[], None] = lambda: None) -> bytes:
    """The checksums of a range, read now. What `check` raises, which is called for each piece, ends it."""
    digester = Digester()
    for piece, buffer in read_ahead(reader, reader.extents(extent), free, Buffer):
        check()
        if buffer is None:
            digester.zeros(piece.length)
        else:
            digester.data(buffer, piece.length)
            free.append(buffer)
    return digester.digests()


def _finished(reader: Reader, item: tuple[Extent, Buffer | None]) -> tuple[Extent, Buffer | None]:
    if item[1] is not None:
        reader.finish(item[1])
    return item
