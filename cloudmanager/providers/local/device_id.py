"""Names a block device world-wide, whichever path led to it."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.model import FileIdentity
from cloudmanager.providers.local import sysfs
from cloudmanager.providers.local.file_id import file_id, file_incarnation
from cloudmanager.providers.local.holders import loop_backing
from cloudmanager.providers.local.opened import opened
from cloudmanager.providers.local.roots import Roots, read_text
from cloudmanager.providers.local.sysfs import BlockDevice

_WORLD_WIDE = re.compile(r"(naa|eui|uuid|nvme)\.")
"""Kinds of SCSI and NVMe names that no two disks share. A t10 name may be one that a hypervisor gives to all."""


def device_id(device: BlockDevice, roots: Roots) -> str:
    """The canonical id of a whole disk, and of each of its partitions.

    - A loop device is what it reads from: the image and the loop device are one disk.
    - A world-wide name is enough by itself; two paths to one disk have the same.
    - A serial is only told apart by its maker, and virtual machines give out what they like: the machine and the
      place where the disk is plugged in are added.
    - A device mapper's UUID is unique on its machine.
    - What has nothing is known by the kernel's own count of disks, until the next boot.
    """
    disk = sysfs.read(roots, device.whole_disk) or device
    if disk.name.startswith("loop"):
        return _loop_id(disk, roots)
    if _WORLD_WIDE.match(disk.world_wide_name):
        return f"device:{disk.world_wide_name}"
    serial = disk.serial or disk.world_wide_name
    if serial:
        return f"device:{roots.machine()}:{serial}@{disk.bus_path}"
    if disk.mapper_uuid:
        return f"device:{roots.machine()}:{disk.mapper_uuid}"
    return f"device:{roots.machine()}:{roots.boot()}:{disk.sequence or disk.number}"


def device_incarnation(device: BlockDevice, roots: Roots) -> str:
    """What distinguishes a disk from a later one of its name; a partition has its disk's.

    A loop device has that of the file that it reads from. Else it is what the canonical id is made of, for nothing
    better is there; the UUID of a plain dm-crypt mapping is made of its name alone, so the kernel's count is added.
    """
    disk = sysfs.read(roots, device.whole_disk) or device
    if disk.name.startswith("loop") and (incarnation := _loop_incarnation(disk, roots)):
        return incarnation
    if disk.mapper_uuid.startswith("CRYPT-PLAIN-"):
        return f"{disk.mapper_uuid}@{roots.boot()}:{disk.sequence or disk.number}"
    return device_id(disk, roots)


def _loop_incarnation(disk: BlockDevice, roots: Roots) -> str:
    """Empty where the file cannot be opened: it was deleted, or is in another mount namespace."""
    identity = loop_backing(roots, disk.name)
    path = read_text(roots.sys / "block" / disk.name / "loop/backing_file")
    with suppress(CloudManagerError), opened(Path(path), [Path("/")]) as backing:
        if backing.identity == identity:
            return file_incarnation(backing.file.fileno())
    return ""


def loop_offset(device: BlockDevice, roots: Roots) -> str:
    """Where in its file a loop device begins, in bytes; a partition has its disk's. Empty of any other device."""
    return read_text(roots.sys / "block" / device.whole_disk / "loop/offset")


def ids_below(device: BlockDevice, roots: Roots) -> tuple[str, ...]:
    """The canonical ids of the disks that a mapped device or array is made of."""
    disk = sysfs.read(roots, device.whole_disk) or device
    return tuple(dict.fromkeys(_below(disk, roots)))


def _below(device: BlockDevice, roots: Roots) -> Iterator[str]:
    for name in device.parts:
        part = sysfs.read(roots, name)
        if part:
            yield device_id(part, roots)
            yield from _below(part, roots)


def _loop_id(disk: BlockDevice, roots: Roots) -> str:
    identity = loop_backing(roots, disk.name)
    if identity is None:
        return f"device:{roots.machine()}:{roots.boot()}:{disk.sequence or disk.number}"
    if identity.inode == 0:
        below = sysfs.by_number(roots, identity.device)
        return device_id(below, roots) if below else f"device:{roots.machine()}:{roots.boot()}:{identity.device}"
    return _backing_id(disk, identity, roots)


def _backing_id(disk: BlockDevice, identity: FileIdentity, roots: Roots) -> str:
    """That of the backing file; if it was deleted, or is in another mount namespace, one that no path leads to."""
    path = read_text(roots.sys / "block" / disk.name / "loop/backing_file")
    with suppress(CloudManagerError), opened(Path(path), [Path("/")]) as backing:
        if backing.identity == identity:
            return file_id(backing.file.fileno(), roots.machine())
    return f"image:{roots.machine()}:{roots.boot()}:{identity.device}:{identity.inode}"
