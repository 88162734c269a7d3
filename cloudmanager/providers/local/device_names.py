"""The names of block devices: kernel nodes, links below /dev/disk, and what the listing writes."""

import os
import re
import stat
from pathlib import Path, PurePosixPath

from cloudmanager.core.errors import DiskNotFound, InvalidDiskId
from cloudmanager.providers.local import sysfs
from cloudmanager.providers.local.roots import Roots
from cloudmanager.providers.local.sysfs import BlockDevice

PREFIX = "/dev/"
_NO_DISKS = {
    "ram": "a RAM disk: its content is gone with the power, and nothing identifies it",
    "zram": "compressed memory: its content is gone with the power, and nothing identifies it",
    "fd": "a floppy drive: its size is not known without a disk change",
    "sr": "an optical drive: its size is not reliable. Make an image of the disc first",
}
_OPAQUE_LINKS = ("wwn-", "nvme-eui.", "nvme-uuid.", "nvme-nvme.", "dm-uuid-", "md-uuid-", "lvm-pv-uuid-")


def resolve(roots: Roots, native: str) -> BlockDevice:
    """Any path below /dev, or `/dev/NAME@SERIAL`, which holds only while that disk has that serial.

    Raises InvalidDiskId (no disk's name), DiskNotFound.
    """
    if ".." in PurePosixPath(native).parts:
        raise InvalidDiskId(f"{native!a} is not the name of a block device: write its path without `..`.")
    number = _number(roots, native)
    device = sysfs.by_number(roots, number) if number is not None else _by_serial(roots, native)
    if device is None:
        raise DiskNotFound(f"There is no block device {native!a} on this machine now.")
    _refuse_no_disk(device, native)
    return device


def stable_name(device: BlockDevice, links: dict[int, str]) -> str:
    """A link by id where there is one, else the kernel's name with the serial, which guards it against re-use."""
    if device.number in links:
        return links[device.number]
    name = PREFIX + device.node_name
    return f"{name}@{_cleaned(device.serial)}" if device.serial else name


def links_by_id(roots: Roots) -> dict[int, str]:
    """The most telling link of each device; udev makes several, and a container may have none."""
    best: dict[int, str] = {}
    names = _listed(roots.dev / "disk/by-id")
    for name in sorted(names, key=lambda name: (name.startswith(_OPAQUE_LINKS), name)):
        native = f"{PREFIX}disk/by-id/{name}"
        number = _device_number(roots.dev / "disk/by-id" / name)
        if number is not None:
            best.setdefault(number, native)
    return best


def is_disk(device: BlockDevice) -> bool:
    return device.size_bytes > 0 and _kind(device) not in _NO_DISKS


def _refuse_no_disk(device: BlockDevice, native: str) -> None:
    if _kind(device) in _NO_DISKS:
        raise InvalidDiskId(f"{native} is {_NO_DISKS[_kind(device)]}.")
    if not device.size_bytes:
        raise DiskNotFound(f"{native} has no medium: its size is 0.")


def _kind(device: BlockDevice) -> str:
    return re.split(r"\d", device.whole_disk)[0]


def _number(roots: Roots, native: str) -> int | None:
    path = roots.dev / native.removeprefix(PREFIX)
    number = _device_number(path)
    if number is None and os.path.exists(path):  # noqa: PTH110 - Path.exists raises for a name too long
        raise InvalidDiskId(f"{native!a} is not a block device.")
    return number


def _device_number(path: Path) -> int | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else None


def _by_serial(roots: Roots, native: str) -> BlockDevice | None:
    node, _at, serial = native.rpartition("@")
    number = _number(roots, node) if node else None
    device = sysfs.by_number(roots, number) if number is not None else None
    if device and _cleaned(device.serial) != serial:
        raise DiskNotFound(f"The disk at {node} is another one now: its serial is {device.serial!a}.")
    return device


def _cleaned(serial: str) -> str:
    return re.sub(r"[^A-Za-z0-9#+.:=_-]", "_", serial)


def _listed(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - the names are what is wanted
    except OSError:
        return []
