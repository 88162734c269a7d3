"""What is done to a block device that we attached: made read-only, its buffers dropped, flushed before it goes.

Nothing here is ever done to a device that somebody else attached.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from cloudmanager.core.errors import DeviceError, DeviceMismatch, DiskInUse
from cloudmanager.core.model import Device

# linux/fs.h
BLKROSET = 0x125D
BLKROGET = 0x125E
BLKFLSBUF = 0x1261


def prepare(device: Device, *, read_only: bool) -> None:
    """Makes the kernel refuse writes, or allow them, and forget what it cached of the disk's earlier attachment."""
    with _opened(device, os.O_RDONLY) as descriptor:
        if _is_read_only(descriptor) != read_only:
            fcntl.ioctl(descriptor, BLKROSET, int(read_only).to_bytes(4, "little"))
        fcntl.ioctl(descriptor, BLKFLSBUF, 0)


def flush(device: Device) -> None:
    """Everything written is on the disk. Raises DiskInUse if somebody holds it (a mount, a mapped device)."""
    try:
        with _opened(device, os.O_RDONLY | os.O_EXCL) as descriptor:
            os.fsync(descriptor)
            fcntl.ioctl(descriptor, BLKFLSBUF, 0)
    except DeviceError:
        raise
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise DeviceError(f"{device.path} cannot be flushed: {error.strerror}.", retriable=True) from error
        raise DiskInUse(
            f"{device.path} is held by something on this machine (mounted, or part of another device), "
            "so it is not detached. Unmount it; the detach is tried again.",
            retriable=True,
        ) from error


@contextmanager
def _opened(device: Device, flags: int) -> Iterator[int]:
    """Raises DeviceMismatch if the path leads to another device by now."""
    descriptor = os.open(device.path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if os.fstat(descriptor).st_rdev != device.identity.device:
            raise DeviceMismatch(f"{device.path} is another device than the one that was found there.")
        yield descriptor
    finally:
        os.close(descriptor)


def _is_read_only(descriptor: int) -> bool:
    return bool(int.from_bytes(fcntl.ioctl(descriptor, BLKROGET, bytes(4)), "little"))
