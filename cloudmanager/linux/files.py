"""Small files that are written whole or not at all, and when a file was made."""

import ctypes
import os
import struct
from contextlib import suppress
from functools import cache
from pathlib import Path

_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
_STATX_BYTES = 256
_BTIME_OFFSET = 80
"""In struct statx, whose layout is the same on every architecture."""


def write_whole(path: Path, content: str) -> None:
    """The file has its old content or the new one, also after a power loss; nobody but its owner may read it.

    The content is on the disk before the name leads to it: some file systems (ext4 after an error, XFS) else show an
    empty file. https://man7.org/linux/man-pages/man2/fsync.2.html: a new name needs its directory's fsync, too.
    Raises OSError.
    """
    unfinished = path.with_suffix(".new")
    with suppress(FileNotFoundError):
        unfinished.unlink()
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def born(descriptor: int) -> str:
    """The time of birth as seconds and nanoseconds; empty where the file system keeps none. See statx(2)."""
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    statx = _statx()
    if statx is None or statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer) != 0:
        return ""
    (known,) = struct.unpack_from("=I", buffer)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, _BTIME_OFFSET)
    return f"{seconds}.{nanoseconds:09}" if known & _STATX_BTIME else ""


@cache
def _statx() -> "ctypes._FuncPointer | None":
    """The C library's; None where it has none (before glibc 2.28)."""
    return getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
