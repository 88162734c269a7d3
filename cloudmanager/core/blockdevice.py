"""What is done to a block device that we attached: made read-only, its buffers dropped, flushed before it goes.

Nothing here is ever done to a device that somebody else attached.
"""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    """Everything written is on the disk. Raises DiskInUse naming who holds it (a mount, a mapped device)."""
    try:
        with _opened(device, os.O_RDONLY | os.O_EXCL) as descriptor:
            os.fsync(descriptor)
            fcntl.ioctl(descriptor, BLKFLSBUF, 0)
    except DeviceError:
        raise
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise DeviceError(f"{device.path} cannot be flushed: {error.strerror}.", retriable=True) from error
        names = ", ".join(holders(device)) or "another program of this machine, exclusively"
        raise DiskInUse(
            f"{device.path} is held: {names}. So it is not detached; release it, the detach is tried again.",
            retriable=True,
            holder=names,
        ) from error


def holders(device: Device) -> list[str]:
    """What this machine has made of a block device and its partitions, as far as this mount namespace shows it."""
    directory = Path(f"/sys/dev/block/{_numbers(device.identity.device)}")
    parts = [directory, *(path.parent for path in directory.glob("*/partition"))]
    above = [f"part of {name}" for part in parts for name in _names(part / "holders")]
    numbers = {_text(part / "dev") for part in parts}
    return [*above, *(f"mounted at {target}" for number, target in _mounts() if number in numbers)]


def _mounts() -> Iterator[tuple[str, str]]:
    """Device number and mount point (proc_pid_mountinfo(5)), in which a space is written as \\040."""
    for line in _text(Path("/proc/self/mountinfo")).splitlines():
        _, _, number, _, target, *_ = line.split(" ")
        yield number, re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), target)


def _numbers(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _names(directory: Path) -> list[str]:
    """None of a partition that has just been removed."""
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208 - the names are what is wanted
    except OSError:
        return []


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
