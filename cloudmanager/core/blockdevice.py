"""Prepares a block device that we attached: read-only, buffers dropped, flushed before the detach.

None of this is done to a device that somebody else attached.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloudmanager.core.errors import DeviceError, DeviceMismatch, DiskInUse
from cloudmanager.core.model import Device
from cloudmanager.linux import block
from cloudmanager.linux.mounts import mounts


def prepare(device: Device, *, read_only: bool) -> None:
    """Makes the kernel refuse writes, or allow them, and forget what it cached of the disk's earlier attachment."""
    with _opened(device, os.O_RDONLY) as descriptor:
        if block.is_read_only(descriptor) != read_only:
            block.set_read_only(descriptor, read_only)
        block.drop_buffers(descriptor)


def flush(device: Device) -> None:
    """Everything written is on the disk. Raises DiskInUse naming who holds it (a mount, a mapped device)."""
    try:
        with _opened(device, os.O_RDONLY | os.O_EXCL) as descriptor:
            os.fsync(descriptor)
            block.drop_buffers(descriptor)
    except DeviceError:
        raise
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise DeviceError(f"{device.path} cannot be flushed: {error.strerror}.", retriable=True) from error
        names = ", ".join(holders(device)) or "another program of this machine, exclusively"
        raise DiskInUse(
            f"{device.path} is held: {names}. So it is not detached. Release it; the detach is retried.",
            retriable=True,
            holder=names,
        ) from error


def holders(device: Device) -> list[str]:
    """What this machine has made of a block device and its partitions, as far as this mount namespace shows it."""
    number = device.identity.device
    directory = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    parts = [directory, *(path.parent for path in directory.glob("*/partition"))]
    above = [f"part of {name}" for part in parts for name in _names(part / "holders")]
    numbers = set(map(_number, parts))
    return [*above, *(f"mounted at {mount.target}" for mount in mounts() if mount.device in numbers)]


def _number(directory: Path) -> int | None:
    """Of the device that sysfs describes there; None if it has just been removed."""
    try:
        major, _, minor = (directory / "dev").read_text().partition(":")
    except OSError:
        return None
    return os.makedev(int(major), int(minor))


def _names(directory: Path) -> list[str]:
    """None of a partition that has just been removed."""
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208 - the names are what is wanted
    except OSError:
        return []


@contextmanager
def _opened(device: Device, flags: int) -> Iterator[int]:
    """Raises DeviceMismatch if the path now leads to another device."""
    descriptor = os.open(device.path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if os.fstat(descriptor).st_rdev != device.identity.device:
            raise DeviceMismatch(f"{device.path} is another device than the one that was found there.")
        yield descriptor
    finally:
        os.close(descriptor)
