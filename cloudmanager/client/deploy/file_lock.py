"""Locks of the kind that QEMU takes on the images that it has open: fcntl(2), open file description locks."""

import errno
import fcntl
import os
import struct

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
