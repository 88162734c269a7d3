"""A block device or a file of this machine as a target."""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloudmanager.client import sector_size
from cloudmanager.client.deploy.errors import TargetError, TargetInUse, TargetReadOnly, TargetTooSmall
from cloudmanager.client.deploy.local_source import FileReader, lock_whole, opened_again
from cloudmanager.linux import block
from cloudmanager.transfer.buffers import Buffer, zeros
from cloudmanager.transfer.extents import Extent, pieces
from cloudmanager.transfer.libnbd import Timeouts

_WRITERS = 64
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
"""linux/falloc.h"""
_CANNOT = (errno.EOPNOTSUPP, errno.EINVAL)
_DEVICES, _SHARED_MEMORY = Path("/dev"), Path("/dev/shm")  # noqa: S108 # files are meant to be there
"""linux/fs.h"""
_LOOP_BACKING = "/sys/block"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class LocalTarget:
    """Opened exclusively, as far as this machine can check."""

    writers = _WRITERS

    def __init__(self, path: Path, descriptor: int) -> None:
        self.name = str(path)
        self.path = path
        self.descriptor = descriptor
        self.is_device = stat.S_ISBLK(os.fstat(descriptor).st_mode)
        self._flags = os.O_DIRECT if self.is_device else 0
        self.logical_sector_bytes = sector_size.of_device(descriptor)

    @property
    def size_bytes(self) -> int:
        return os.lseek(self.descriptor, 0, os.SEEK_END)

    @property
    def likeness(self) -> str:
        """A file may grow, and a device has no number of its own."""
        status = os.fstat(self.descriptor)
        return str(self.size_bytes) if self.is_device else f"{status.st_dev}:{status.st_ino}"

    def reserve(self, size_bytes: int) -> None:
        if size_bytes <= self.size_bytes:
            return
        if self.is_device:
            raise TargetTooSmall(f"{self.path} has {self.size_bytes} bytes; the image needs {size_bytes}.")
        try:
            os.ftruncate(self.descriptor, size_bytes)
        except OSError as error:
            raise TargetTooSmall(f"{self.path} cannot grow to {size_bytes} bytes: {error.strerror}.") from error

    def reread_partitions(self) -> None:
        """So that the kernel knows those that were written; a device that cannot have any does not mind."""
        if not self.is_device:
            return
        from cloudmanager.client.access_methods import command  # noqa: PLC0415 # takes a moment, and is for devices only
        from cloudmanager.client.access_methods.errors import AccessFailed  # noqa: PLC0415 # as above

        with suppress(OSError, AccessFailed):
            block.reread_partitions(self.descriptor)
            command.run("partx", "--update", self.path)  # a kernel may understand no tables itself

    @contextmanager
    def writer(self, timeouts: Timeouts) -> Iterator["LocalWriter"]:
        del timeouts  # a device always answers
        with opened_again(self.descriptor, self.size_bytes) as reader:
            own = os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDWR | os.O_CLOEXEC | self._flags)
            try:
                yield LocalWriter(own, reader)
            finally:
                os.close(own)

    @contextmanager
    def reader(self, timeouts: Timeouts) -> Iterator[FileReader]:
        """What is on the disk, not what the kernel remembers."""
        del timeouts
        os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        with opened_again(self.descriptor, self.size_bytes, self._flags) as reader:
            yield reader


class LocalWriter:
    """Writes at the given offset, synchronously."""

    def __init__(self, descriptor: int, reader: FileReader) -> None:
        self._descriptor = descriptor
        self._reader = reader

    def extents(self, extent: Extent) -> list[Extent]:
        return self._reader.extents(extent)

    def begin(self, buffer: Buffer, at: int, piece: Extent) -> None:
        self._write(buffer.view[at : at + piece.length], piece.offset)

    def reclaim(self) -> Buffer:
        """Every buffer is free at once, so none is ever missing."""
        return Buffer()

    def settle(self) -> list[Buffer]:
        return []

    def zero(self, extent: Extent) -> None:
        if not (self._allocate(_PUNCH_HOLE | _KEEP_SIZE, extent) or self._allocate(_ZERO_RANGE | _KEEP_SIZE, extent)):
            for piece in pieces(extent):
                self._write(zeros[: piece.length], piece.offset)

    def trim(self, extent: Extent) -> None:
        self._allocate(_PUNCH_HOLE | _KEEP_SIZE, extent)

    def flush(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise TargetError(f"What was written did not reach the disk: {error.strerror}.") from error

    def _write(self, view: memoryview, offset: int) -> None:
        while view:
            try:
                count = os.pwrite(self._descriptor, view, offset)
            except OSError as error:
                raise TargetError(f"The target cannot be written at byte {offset}: {error.strerror}.") from error
            view, offset = view[count:], offset + count

    def _allocate(self, mode: int, extent: Extent) -> bool:
        if not _libc.fallocate(self._descriptor, mode, extent.offset, extent.length):
            return True
        number = ctypes.get_errno()
        if number in _CANNOT:
            return False
        raise TargetError(f"The target cannot be zeroed at byte {extent.offset}: {os.strerror(number)}.")


@contextmanager
def opened(path: Path) -> Iterator[LocalTarget]:
    """A file is made if there is none. Raises TargetInUse, TargetReadOnly, TargetError."""
    descriptor = _open(path)
    try:
        yield _claimed(path, descriptor)
    finally:
        os.close(descriptor)


def _claimed(path: Path, descriptor: int) -> LocalTarget:
    target = LocalTarget(path, descriptor)
    try:
        target.reserve(0)
        if target.is_device:
            _refuse_read_only(target)
        else:
            _claim_file(target)
    except OSError as error:
        raise TargetError(f"{path} cannot be written as a disk is: {error.strerror}.") from error
    return target


def _open(path: Path) -> int:
    try:
        is_device = path.is_block_device()
        if path.exists() and not (is_device or path.is_file()):
            raise TargetError(f"{path} is neither a block device nor a file.")
        if not path.exists() and _is_for_devices(path):
            raise TargetError(f"There is no device {path}. `lsblk` shows those that there are.")
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if is_device else os.O_CREAT), 0o600)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise TargetInUse(
                f"{path} is in use on this machine: it, or a partition of it, is mounted or held by another program. "
                "`lsblk` shows by what."
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise TargetReadOnly(f"{path} cannot be written: {error.strerror}.") from error
        raise TargetError(f"{path} cannot be opened: {error.strerror}.") from error


def _is_for_devices(path: Path) -> bool:
    """A file that is made there is in memory, and only looks like the device that was meant."""
    resolved = Path(os.path.realpath(path))  # which knows loops of links, too
    return resolved.is_relative_to(_DEVICES) and not resolved.is_relative_to(_SHARED_MEMORY)


def _refuse_read_only(target: LocalTarget) -> None:
    """A device can be opened for writing even if the kernel has it set read-only."""
    if block.is_read_only(target.descriptor):
        raise TargetReadOnly(
            f"{target.path} is read-only. If that is not meant to protect it, `blockdev --setrw` makes it writable."
        )


def _claim_file(target: LocalTarget) -> None:
    """QEMU locks the images that it has open; a loop device does not."""
    if not lock_whole(target.descriptor):
        raise TargetInUse(f"{target.path} is in use: another program, such as QEMU, has locked it.")
    loop = _loop_device_of(target.path)
    if loop:
        raise TargetInUse(f"{target.path} is in use: it is the loop device {loop}.")


def _loop_device_of(path: Path) -> str | None:
    resolved = str(path.resolve())
    for backing in Path(_LOOP_BACKING).glob("loop*/loop/backing_file"):
        try:
            found = backing.read_text().rstrip("\n")
        except OSError:
            continue  # it was detached just now
        if found == resolved:
            return f"/dev/{backing.parts[3]}"
    return None
