"""Reads a file or a block device of this machine."""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.client.deploy.errors import SourceChanged, SourceError, UnreadableRange
from cloudmanager.linux.block import whole_sectors
from cloudmanager.transfer.buffers import Buffer, zeros
from cloudmanager.transfer.extents import Extent, on_grains
from cloudmanager.transfer.libnbd import Timeouts

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock, 64 bit."""
_QEMU_WRITES = 101
"""A byte that QEMU locks as long as it may write: RAW_LOCK_PERM_BASE (block/file-posix.c) and BLK_PERM_WRITE."""


def lock_whole(descriptor: int) -> bool:
    """Whether nobody else has a lock on the file, which is locked now. Where locks do not work nobody has any."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def is_written_by_qemu(descriptor: int) -> bool:
    """Whether a QEMU has the file open for writing."""
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _QEMU_WRITES, 1, 0)
    try:
        found, *_ = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted))
    except OSError:
        return False  # a file system without locks
    return bool(found != fcntl.F_UNLCK)


_BAD_MEDIUM = (errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO)
"""What the kernel says of sectors that a device cannot read (block/blk-core.c)."""


class FileReader:
    """Reads at the given offset, synchronously: the kernel reads ahead."""

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


_READERS = 64


@dataclass(frozen=True)
class OpenFile:
    """A source file, opened once: what is examined is what is read."""

    path: Path
    descriptor: int
    length: int
    identity: str
    recheck: Callable[[], None] | None = None
    """Of what the file was made of, where it is a copy of our own."""

    def fetch(self, offset: int, length: int) -> bytes:
        return os.pread(self.descriptor, length, offset)

    def check_unchanged(self) -> None:
        """Raises SourceChanged."""
        if self.recheck is not None:
            self.recheck()
        elif _identity(self.path, os.fstat(self.descriptor), self.length) != self.identity:
            raise SourceChanged(
                f"{self.path} was changed while it was read, so the target holds a mixture. "
                "Deploy it again when nothing writes to it."
            )


@contextmanager
def opened(path: Path) -> Iterator[OpenFile]:
    """Raises SourceError."""
    try:  # a named pipe may never have a writer: do not wait for one
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"{path} cannot be opened: {error.strerror}.") from error
    try:
        status = os.fstat(descriptor)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise SourceError(f"{path} is neither a file nor a block device. A stream is given on standard input.")
        if is_written_by_qemu(descriptor):
            raise SourceError(
                f"{path} is open for writing: a virtual machine runs from it, or it is exported read-write. End that "
                "first, or deploy a snapshot."
            )
        length = os.lseek(descriptor, 0, os.SEEK_END)
        if not length:
            raise SourceError(f"{path} is empty. Check that whatever wrote it has finished.")
        yield OpenFile(path, descriptor, length, _identity(path, status, length))
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class FileSource:
    """Raw, and read directly."""

    file: OpenFile
    readers: int = _READERS
    detects_changes: bool = True

    @property
    def size_bytes(self) -> int:
        return whole_sectors(self.file.length)

    @property
    def identity(self) -> str:
        return self.file.identity

    def reader(self, timeouts: Timeouts) -> AbstractContextManager[FileReader]:
        del timeouts  # a file always answers
        return opened_again(self.file.descriptor, self.file.length)

    def check_unchanged(self) -> None:
        self.file.check_unchanged()


def _identity(path: Path, status: os.stat_result, length: int) -> str:
    if stat.S_ISBLK(status.st_mode):
        return f"{path.resolve()} {status.st_rdev} {length}"
    return f"{path.resolve()} {status.st_dev}:{status.st_ino} {length} {status.st_mtime_ns}"
