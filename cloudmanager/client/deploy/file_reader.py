"""Reads a file or a block device of this machine."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from cloudmanager.client.deploy.errors import SourceError, UnreadableRange
from cloudmanager.transfer.buffers import Buffer, zeros
from cloudmanager.transfer.extents import Extent, on_grains

_BAD_MEDIUM = (errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO)
"""What the kernel says of sectors that a device cannot read (block/blk-core.c)."""


class FileReader:
    """Reads where it is told, at once: the kernel reads ahead."""

    def __init__(self, descriptor: int, end: int) -> None:
        """An open file of its own: looking for holes moves its position."""
        self._descriptor = descriptor
        self._end = end
        self._knows_holes = stat.S_ISREG(os.fstat(descriptor).st_mode)

    def extents(self, extent: Extent) -> list[Extent]:
        if not self._knows_holes:
            return [extent]
        return on_grains(self._ranges(extent), extent.offset, extent.end)

    def begin(self, buffer: Buffer, piece: Extent) -> None:
        done = 0
        while done < piece.length:
            try:
                count = os.preadv(self._descriptor, [buffer.view[done : piece.length]], piece.offset + done)
            except OSError as error:
                if error.errno in _BAD_MEDIUM:
                    raise UnreadableRange.of(piece.offset, piece.length, error.strerror or "") from error
                raise SourceError(f"It cannot be read at byte {piece.offset + done}: {error.strerror}.") from error
            if not count:
                buffer.view[done : piece.length] = zeros[: piece.length - done]
                return
            done += count

    def finish(self, buffer: Buffer) -> None:
        """Nothing is under way."""

    def _ranges(self, extent: Extent) -> Iterator[Extent]:
        position = extent.offset
        while position < extent.end:
            start = min(self._seek(position, os.SEEK_DATA), extent.end)
            if start > position:
                yield Extent(position, start - position, is_zero=True)
            if start < extent.end:
                position = min(self._seek(start, os.SEEK_HOLE), extent.end)
                yield Extent(start, position - start)
            else:
                position = start

    def _seek(self, position: int, whence: int) -> int:
        if position >= self._end:
            return 1 << 62
        try:
            return os.lseek(self._descriptor, position, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return 1 << 62
            raise SourceError(f"It cannot be read at byte {position}: {error.strerror}.") from error


@contextmanager
def opened_again(descriptor: int, end: int, flags: int = 0) -> Iterator[FileReader]:
    """A reader with a position of its own, of a file that is open already: also if its name means another one now."""
    own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        yield FileReader(own, end)
    finally:
        os.close(own)
