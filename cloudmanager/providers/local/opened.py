"""Opens an image so that what was checked is what is read."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cloudmanager.core.errors import CloudManagerError, DeviceError, DiskNotFound, InvalidDiskId
from cloudmanager.core.exhaustion import exhausted
from cloudmanager.core.model import FileIdentity

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}


@dataclass(frozen=True)
class OpenedImage:
    """A regular file, open for reading, with the path that it really has."""

    path: Path
    file: BinaryIO
    status: os.stat_result

    @property
    def identity(self) -> FileIdentity:
        return FileIdentity(self.status.st_dev, self.status.st_ino)

    @property
    def stored_bytes(self) -> int:
        return self.status.st_blocks * 512

    def refuses_writes(self) -> str:
        """Why its bytes cannot be changed, as a sentence; empty if they can."""
        if not self.status.st_mode & 0o222:
            return "The file has no write permission for anybody (chmod u+w)."
        if not os.access(f"/proc/self/fd/{self.file.fileno()}", os.W_OK):
            return "The file cannot be written by this service: see its mode, its attributes, and how it is mounted."
        return ""


@contextmanager
def opened(path: Path, within: Sequence[Path]) -> Iterator[OpenedImage]:
    """Opens a regular file whose real path is below one of the directories.

    O_PATH follows symbolic links without touching what it finds, so that a pipe does not block and a device does
    nothing; the same inode is then opened through /proc. Nothing can be exchanged in between.

    Raises DiskNotFound, InvalidDiskId (leads elsewhere, or is no regular file), DeviceError (cannot be read).
    """
    handle = _open(path, os.O_PATH)
    try:
        status = os.fstat(handle)
        _refuse_irregular(path, status)
        real = _real_path(handle, path, status)
        if not is_below(real, within):
            raise InvalidDiskId(
                f"{path} leads out of the configured directories, to {real}. Move the file to one of them."
            )
        reading = _open(Path(f"/proc/self/fd/{handle}"), os.O_RDONLY | os.O_NONBLOCK, shown=path)
    finally:
        os.close(handle)
    with open(reading, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        yield OpenedImage(real, file, status)


def is_below(path: Path, directories: Sequence[Path]) -> bool:
    """By the directories' real paths, for a path that is real itself."""
    return any(path.is_relative_to(os.path.realpath(directory)) for directory in directories)


def _open(path: Path, flags: int, shown: Path | None = None) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise _translated(error, shown or path) from error


def _refuse_irregular(path: Path, status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise InvalidDiskId(f"{path} is {_KINDS.get(kind, 'no regular file')}, not an image file.")


def _real_path(handle: int, path: Path, status: os.stat_result) -> Path:
    if status.st_nlink == 0:
        raise DiskNotFound(f"{path} was deleted a moment ago.")
    return Path(os.readlink(f"/proc/self/fd/{handle}"))  # noqa: PTH115 - a magic link, not a file's


def _translated(error: OSError, path: Path) -> CloudManagerError:
    if lacking := exhausted(error):
        return lacking
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return DiskNotFound(f"There is no image {path}, or it was deleted.")
    if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
        return InvalidDiskId(f"{str(path)[:200]!a} cannot be the path of an image: {error.strerror}.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return DeviceError(f"{path} cannot be read by this service (user id {os.geteuid()}): give it permission.")
    return DeviceError(f"{path} cannot be opened: {error.strerror}. Check the disk or file system that it is on.")
