"""The files and devices of a disk, opened and checked: what was checked is what is served."""

import errno
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cloudmanager.core.errors import DeviceError, DeviceMismatch, DiskInUse
from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.core.model import Access, Device, FileIdentity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenImage:
    """One open file or device of a disk."""

    device: Device
    fd: int
    status: os.stat_result
    is_writable: bool
    is_exclusive: bool
    """A block device that no other program can open exclusively or mount while the descriptor is open."""
    uses_page_cache: bool

    def close(self) -> None:
        os.close(self.fd)

    @property
    def bytes_now(self) -> int:
        return os.lseek(self.fd, 0, os.SEEK_END)


def open_images(device: Device, access: Access) -> tuple[OpenImage, ...]:
    """The image and those that it reads through, in this order; only the first is ever writable.

    Raises DeviceMismatch where a path leads elsewhere than it did, DiskInUse, DeviceError.
    """
    images: list[OpenImage] = []
    try:
        for number, link in enumerate(chain(device)):
            images.append(_open(link, writable=access.writes_disk and number == 0))
    except BaseException:
        close_images(images)
        raise
    return tuple(images)


def close_images(images: Sequence[OpenImage]) -> None:
    for image in images:
        image.close()


def chain(device: Device) -> Iterator[Device]:
    """The image and those that it reads through."""
    link: Device | None = device
    while link is not None:
        yield link
        link = link.backing


def image_name(number: int) -> str:
    """What an image of a chain is called in a server's sandbox; the first is the one that is exported."""
    return f"image-{number}"


def identity_of(status: os.stat_result) -> FileIdentity:
    if stat.S_ISBLK(status.st_mode):
        return FileIdentity(status.st_rdev, 0)
    return FileIdentity(status.st_dev, status.st_ino)


def _open(device: Device, *, writable: bool) -> OpenImage:
    exclusive = writable and device.is_block
    flags = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_EXCL if exclusive else 0)
    # A path that has become a FIFO must not hang the open.
    fd = _open_path(device, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = _checked_status(device, fd)
        return OpenImage(device, fd, status, writable, exclusive, _uses_page_cache(device, fd, writable=writable))
    except BaseException:
        os.close(fd)
        raise


def _checked_status(device: Device, fd: int) -> os.stat_result:
    status = os.fstat(fd)
    # The number of a deleted file may be given to another kind of file.
    is_right_kind = stat.S_ISBLK(status.st_mode) if device.is_block else stat.S_ISREG(status.st_mode)
    if identity_of(status) != device.identity or not is_right_kind:
        raise DeviceMismatch(f"{device.path} is not what it was when it was looked up; nothing is served.")
    return status


def _open_path(device: Device, flags: int) -> int:
    try:
        return os.open(device.path, flags)
    except FileNotFoundError:
        raise DeviceError(f"{device.path} does not exist any more.") from None
    except PermissionError:
        raise DeviceError(
            f"{device.path} cannot be opened by user {os.geteuid()}: run the service as root, or grant access to it."
        ) from None
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DiskInUse(f"{device.path} is held by something on this machine: unmount or release it.") from error
        raise_exhausted(error)
        raise DeviceError(f"{device.path} cannot be opened: {error.strerror}.") from error


def _uses_page_cache(device: Device, fd: int, *, writable: bool) -> bool:
    """Bytes that others may change, or that must reach the disk, bypass the page cache if the file system allows it."""
    if device.is_stable and not writable:
        return True
    with suppress(OSError):
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NONBLOCK))
        return False
    log.warning("%s: its file system has no O_DIRECT, so it is served through the page cache", device.path)
    return True
