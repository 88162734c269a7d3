"""A file without a name, for an image that comes as a stream but has to be read in another order."""

import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cloudmanager.client.deploy.errors import SourceError
from cloudmanager.client.deploy.options import Listener, Meter, Phase
from cloudmanager.transfer.buffers import Buffer, is_zero

_REPORT_SECONDS = 0.2
_MOST_LEFT_BYTES = 1024**3
_LARGE_FILES = "/var/tmp"  # noqa: S108 # where the Filesystem Hierarchy Standard wants large ones; this has no name there


@contextmanager
def spooled(fill: Callable[[memoryview], int], length: int | None, progress: Listener) -> Iterator[int]:
    """A descriptor of all that `fill` gives. The file is gone with this process.

    Raises SourceError when there is no room.
    """
    directory = _directory()
    try:
        descriptor = _nameless(directory)
    except OSError as error:
        raise SourceError(f"The image cannot be kept in {directory}: {error.strerror}. Set TMPDIR.") from error
    try:
        _refuse_lack_of_room(directory, length)
        try:
            _write(_within(directory, length, fill), descriptor, length, progress)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise _no_room(directory, length) from error
        yield descriptor
    finally:
        _forget_name(descriptor)
        os.close(descriptor)


@contextmanager
def named(descriptor: int) -> Iterator[int]:
    """Another descriptor, which the caller closes, of the same file, which has a name for a moment.

    What has no name cannot be shown to a confined program.
    """
    if os.fstat(descriptor).st_nlink:
        try:
            yield os.dup(descriptor)
        finally:
            _forget_name(descriptor)
        return
    path = Path(_directory()) / f".cloudmanager-{os.urandom(16).hex()}"
    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)  # as linkat(2) says
    try:
        yield os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    finally:
        path.unlink(missing_ok=True)


def _nameless(directory: str) -> int:
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    descriptor, _path = tempfile.mkstemp(dir=directory)  # a file system without them
    return descriptor


def _forget_name(descriptor: int) -> None:
    if os.fstat(descriptor).st_nlink:
        Path(f"/proc/self/fd/{descriptor}").readlink().unlink(missing_ok=True)


def _write(fill: Callable[[memoryview], int], descriptor: int, length: int | None, progress: Listener) -> None:
    meter, reported_at, buffer, done = Meter(Phase.FETCHING, length), 0.0, Buffer(), 0
    while count := fill(buffer.view):
        if not is_zero(buffer.address, count):
            view = buffer.view[:count]
            while view:
                view = view[os.pwrite(descriptor, view, done + count - len(view)) :]
        done += count
        if time.monotonic() - reported_at >= _REPORT_SECONDS:
            reported_at = time.monotonic()
            progress(meter.read(done))
    os.ftruncate(descriptor, done)


def _within(directory: str, length: int | None, fill: Callable[[memoryview], int]) -> Callable[[memoryview], int]:
    """`fill`, until the file system has too little room for others: what comes may have no end."""

    def fill_while_there_is_room(view: memoryview) -> int:
        if _free(directory) < len(view):
            raise _no_room(directory, length)
        return fill(view)

    return fill_while_there_is_room


def _directory() -> str:
    """TMPDIR, or where there is more room than in memory."""
    if "TMPDIR" not in os.environ and os.access(_LARGE_FILES, os.W_OK):
        return _LARGE_FILES
    return tempfile.gettempdir()


def _refuse_lack_of_room(directory: str, length: int | None) -> None:
    if length is not None and length > _free(directory):
        raise _no_room(directory, length)


def _no_room(directory: str, length: int | None) -> SourceError:
    needed = f"{length} bytes are needed, and there are" if length is not None else "there are"
    return SourceError(
        f"The image has to be stored in {directory} before it can be read: {needed} {_free(directory)} bytes free, "
        "but for a reserve. Name a directory with more room in TMPDIR."
    )


def _free(directory: str) -> int:
    """Bytes, without those that are left to others."""
    status = os.statvfs(Path(directory))
    left_to_others = min(status.f_blocks * status.f_frsize // 20, _MOST_LEFT_BYTES)
    return max(0, status.f_bavail * status.f_frsize - left_to_others)
