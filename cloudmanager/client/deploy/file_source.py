"""A raw image in a file, or a block device of this machine."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.client.deploy.errors import SourceChanged, SourceError
from cloudmanager.client.deploy.file_lock import is_written_by_qemu
from cloudmanager.client.deploy.file_reader import FileReader, opened_again
from cloudmanager.transfer.libnbd import Patience

_SECTOR = 512
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
    try:  # nobody may ever write to a named pipe: it is not waited for
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
    tells_changes: bool = True

    @property
    def size_bytes(self) -> int:
        return -(-self.file.length // _SECTOR) * _SECTOR

    @property
    def identity(self) -> str:
        return self.file.identity

    def reader(self, patience: Patience) -> AbstractContextManager[FileReader]:
        del patience  # a file does not go silent
        return opened_again(self.file.descriptor, self.file.length)

    def check_unchanged(self) -> None:
        self.file.check_unchanged()


def _identity(path: Path, status: os.stat_result, length: int) -> str:
    if stat.S_ISBLK(status.st_mode):
        return f"{path.resolve()} {status.st_rdev} {length}"
    return f"{path.resolve()} {status.st_dev}:{status.st_ino} {length} {status.st_mtime_ns}"
