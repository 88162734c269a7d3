"""Names a file world-wide by what it is, not by its path."""

import ctypes
import fcntl
import os
import struct
from functools import cache

_LONG_BYTES = struct.calcsize("l")
_FS_IOC_GETVERSION = 2 << 30 | _LONG_BYTES << 16 | ord("v") << 8 | 1
"""As on every architecture with the generic ioctl encoding; elsewhere the ioctl is unknown and no harm is done."""

_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
_STATX_BYTES = 256
_BTIME_OFFSET = 80
"""In struct statx, whose layout is the same on every architecture."""


def file_id(descriptor: int, machine: str) -> str:
    """The canonical id of an open regular file: machine, file system, inode and inode generation.

    Hard links and symbolic links are one file; a file that replaces another has another inode, or the same one with
    another generation where the file system counts them (ext4, XFS, Btrfs). The file system is named by statvfs's
    f_fsid, and by st_dev where there is none: for ext4 and Btrfs it is made from the UUID and outlives a reboot, for
    XFS from the device's number. Two copies of one ext4 mounted side by side cannot be told apart, so their files with
    equal inodes count as one disk.
    """
    status = os.fstat(descriptor)
    filesystem = os.fstatvfs(descriptor).f_fsid or status.st_dev
    return f"image:{machine}:{filesystem:x}:{status.st_ino}:{_generation(descriptor)}"


def file_incarnation(descriptor: int) -> str:
    """What tells an open file from a later one of its name: inode, inode generation, and when it was made.

    Writing into the file changes none of these; a file that replaces it differs in one. A file system that has
    neither generations nor times of birth (NFS before 4.2, some of FUSE) leaves the inode's number, which it may give
    again.
    """
    return f"{os.fstat(descriptor).st_ino}.{_generation(descriptor)}.{_born(descriptor)}"


def _born(descriptor: int) -> str:
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


def _generation(descriptor: int) -> int:
    buffer = bytearray(_LONG_BYTES)
    try:
        fcntl.ioctl(descriptor, _FS_IOC_GETVERSION, buffer)
    except OSError:
        return 0  # tmpfs and others: they do not reuse inode numbers soon
    return int(struct.unpack_from("=I", buffer)[0])  # the kernel writes an int, whatever the number says
