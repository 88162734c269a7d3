"""Small files that are written whole or not at all, locks on files, and when a file was made."""

import ctypes
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

_LOOK_SECONDS = 0.05
"""How often a lock is tried: flock(2) has no timeout."""

_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
_STATX_BYTES = 256
_BTIME_OFFSET = 80
"""In struct statx, whose layout is the same on every architecture."""


def write_whole(path: Path, content: str | bytes, *, is_durable: bool = True) -> None:
    """The file has its old content or the new one; only its owner may read it. Raises OSError.

    `is_durable`: also after a power loss, as in `replacing`.
    """
    with replacing(path, is_durable=is_durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path, *, is_durable: bool = True) -> Iterator[BinaryIO]:
    """A new private file, which takes the name when the block ends, and not if it raises. Raises OSError.

    `is_durable`: the content is on the disk before the name leads to it, for some file systems (ext4 after an error,
    XFS) show an empty file after a power loss otherwise; and so is the name.
    https://man7.org/linux/man-pages/man2/fsync.2.html: a new name needs its directory's fsync, too.
    """
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    if is_durable:
        sync(path.parent)


def open_private(path: Path, flags: int = 0) -> int:
    """For reading and writing: a file that nobody else can have written, in a directory of ours, made where missing.

    What is only too open is tightened. Raises OSError, also for a link and for what belongs to another user.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _tighten(directory, path.parent)
        flags |= os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path.name, flags, 0o600, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        _tighten(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _tighten(descriptor: int, path: Path) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"{path} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~0o077)


def try_lock(descriptor: int, *, is_shared: bool = False) -> bool:
    """Takes the lock of an open file (flock(2)), or says that somebody else has it. Raises OSError."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(descriptor: int, seconds: float) -> bool:
    """Whether the lock could be taken within that time. Raises OSError."""
    deadline = time.monotonic() + seconds
    while not try_lock(descriptor):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def sync(path: Path) -> None:
    """A power loss from now on takes nothing of a file, or of a directory's entries. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
