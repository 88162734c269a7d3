"""What the kernel reports about a device that a server has open: a few system calls, and no request to a cloud.

An image is looked at by its name, for as long as that leads to the very file that the server has open.

An open descriptor always refers to the same file, and a block device's number is not reused while the device is
open. So what can change underneath is: the device is taken out, its medium is changed (a loop device's file), the
number of its bytes. The first shows in sysfs as a missing entry, the second as another count of disks (diskseq, since
Linux 5.15).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Self

from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.core.model import Device, FileIdentity
from cloudmanager.core.nbd.images import chain, identity_of
from cloudmanager.core.nbd.served_files import open_files
from cloudmanager.linux.block import SECTOR_BYTES

_BY_NUMBER = "/sys/dev/block"
_LONGEST_ATTRIBUTE = 64


class DeviceChange(Enum):
    """How a device has changed. Growth is harmless to a server that has it open."""

    NONE = "none"
    SHRUNK = "shrunk"
    GONE = "gone"
    """Taken out, or replaced under its number."""


@dataclass(frozen=True)
class Fingerprint:
    """A device as it was when a server was about to open it."""

    device: Device
    sequence: str
    """Of a block device: the kernel's count of disks; empty where it keeps none."""
    sizes: tuple[int, ...]
    """Bytes of the device, or of each file of the image's chain. None are known of what cannot be looked at."""

    @classmethod
    def take(cls, device: Device) -> Self:
        return cls(device, _sequence(device), tuple(_sizes(device)))

    @property
    def notices_replacement(self) -> bool:
        """Another disk under the device's number would have another count."""
        return bool(self.sequence and self.sizes)

    def change(self, pid: Callable[[], int | None]) -> DeviceChange:
        """`pid` gives the server's that has it open, where it lives. It is used only where names are not enough.

        Raises ResourcesExhausted.
        """
        if self.device.is_block:
            return self._change_of_device()
        return DeviceChange.SHRUNK if self._has_shrunk(pid) else DeviceChange.NONE

    def _has_shrunk(self, pid: Callable[[], int | None]) -> bool:
        """Of an image, or one below it."""
        before = list(zip(chain(self.device), self.sizes, strict=False))
        for image, size in before:
            now = _named_size(image)
            if now is None:
                sizes = _open_sizes(pid() or 0)
                return any(sizes.get(each.identity, size) < size for each, size in before)
            if now < size:
                return True
        return False

    def _change_of_device(self) -> DeviceChange:
        size = _block_size(self.device)
        if not self.sizes or (size is None and not os.path.isdir(_BY_NUMBER)):  # noqa: PTH112 - no Path per look
            return DeviceChange.NONE  # nothing was known of it
        if size is None or _sequence(self.device) != self.sequence:
            return DeviceChange.GONE
        return DeviceChange.SHRUNK if size < self.sizes[0] else DeviceChange.NONE


def has_open(pid: int, device: Device) -> bool:
    """Whether a process has the device open, with all images of its chain. True where that cannot be seen."""
    found = _open_sizes(pid).keys()
    return not found or {image.identity for image in chain(device)} <= found


def serves_a_device(pid: int) -> bool:
    """Whether a server has a block device open, and not only files."""
    return any(identity.inode == 0 for identity in _open_sizes(pid))


def _open_sizes(pid: int) -> dict[FileIdentity, int]:
    with suppress(OSError):  # it has ended, or is another user's
        return {identity_of(status): status.st_size for _, status in open_files(pid)}
    return {}


def _named_size(image: Device) -> int | None:
    """What a name leads to is the open file if it has its identity: an inode that is open is not used again.

    None where that is not so, which says nothing of the image's bytes.
    """
    try:
        status = os.stat(image.path)  # noqa: PTH116 - no Path per look
    except OSError:
        return None
    is_it = (status.st_dev, status.st_ino) == (image.identity.device, image.identity.inode)
    return status.st_size if is_it else None


def _sizes(device: Device) -> Iterator[int]:
    if device.is_block:
        if (size := _block_size(device)) is not None:
            yield size
        return
    with suppress(OSError):
        for image in chain(device):
            yield Path(image.path).stat().st_size


def _block_size(device: Device) -> int | None:
    size = _text(f"{_directory(device)}/size")
    return int(size) * SECTOR_BYTES if size else None


def _sequence(device: Device) -> str:
    """A partition has its disk's."""
    if not device.is_block:
        return ""
    directory = _directory(device)
    return _text(f"{directory}/diskseq") or _text(f"{directory}/../diskseq")


def _directory(device: Device) -> str:
    number = device.identity.device
    return f"{_BY_NUMBER}/{os.major(number)}:{os.minor(number)}"


def _text(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, _LONGEST_ATTRIBUTE).decode().strip()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise_exhausted(error)
        return ""
