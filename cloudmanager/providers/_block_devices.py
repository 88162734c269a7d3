"""The disks of this machine, read from sysfs. Links in /dev are never followed: they may be late, stale or wrong."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.core.errors import DeviceMismatch, DeviceNotReady
from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.core.model import Device, FileIdentity
from cloudmanager.linux.block import SECTOR_BYTES


@dataclass(frozen=True)
class BlockDevice:
    """A whole disk: no partition, no controller. Attributes are read when they are asked for."""

    name: str
    """The kernel's: `sdb`, `nvme1n1`."""
    node: Path
    directory: Path
    """In sysfs."""

    def text(self, attribute: str) -> str:
        """An attribute such as `device/serial`, without the padding; empty where there is none."""
        return self.content(attribute).decode("ascii", "replace").strip(" \n\0")

    def content(self, attribute: str) -> bytes:
        """An attribute as it is; empty where there is none or it cannot be read. Raises ResourcesExhausted."""
        try:
            return (self.directory / attribute).read_bytes()
        except OSError as error:
            raise_exhausted(error)
            return b""

    @property
    def size_bytes(self) -> int:
        """0 while the device is not ready."""
        size = self.text("size")
        return int(size) * SECTOR_BYTES if size.isdecimal() else 0

    @property
    def logical_sector_bytes(self) -> int:
        size = self.text("queue/logical_block_size")
        return int(size) if size.isdecimal() else SECTOR_BYTES

    @property
    def is_read_only(self) -> bool:
        return self.text("ro") == "1"

    @property
    def stamp(self) -> str:
        """Differs from that of every other device that this machine has had under the name (diskseq, Linux 5.15)."""
        return " ".join(self.text(attribute) for attribute in ("dev", "diskseq", "size"))

    def parent(self) -> Path:
        """The device that it belongs to, in sysfs, all links resolved."""
        return (self.directory / "device").resolve()

    def as_device(self, size_bytes: int | None = None) -> Device:
        """What a provider's `locate` answers once it knows that this is the right disk.

        Raises DeviceNotReady while node or size are missing, DeviceMismatch when the node is another device than
        sysfs says, or when the size is not the expected one.
        """
        number = self._number()
        size = self.size_bytes
        if size == 0:
            raise DeviceNotReady(f"{self.node} is there and has no size yet.")
        if size_bytes is not None and size != size_bytes:
            raise DeviceMismatch(f"{self.node} has {size} bytes, and the disk has {size_bytes}.")
        identity = FileIdentity(number, 0)
        return Device(str(self.node), size, identity, is_block=True, logical_sector_bytes=self.logical_sector_bytes)

    def as_ready_device(self, size_bytes: int | None = None) -> Device | None:
        """As `as_device`, and None while node or size are missing: for those who wait for them."""
        try:
            return self.as_device(size_bytes)
        except DeviceNotReady:
            return None

    def _number(self) -> int:
        major, _, minor = self.text("dev").partition(":")
        try:
            found = self.node.lstat()
        except OSError as error:
            raise DeviceNotReady(f"The kernel has {self.name}, and {self.node} is not there yet.") from error
        if not stat.S_ISBLK(found.st_mode) or not (major.isdecimal() and minor.isdecimal()):
            raise DeviceMismatch(f"{self.node} is not the block device that the kernel calls {self.name}.")
        if found.st_rdev != os.makedev(int(major), int(minor)):
            raise DeviceMismatch(f"{self.node} is another device than the one that the kernel calls {self.name}.")
        return found.st_rdev


class BlockDevices:
    """The disks below a /dev and a /sys."""

    def __init__(self, dev_root: Path = Path("/dev"), sys_root: Path = Path("/sys")) -> None:
        self._dev = dev_root
        self.sys_root = sys_root

    def __iter__(self) -> Iterator[BlockDevice]:
        """Every whole disk, by name, without the hidden paths of multipath NVMe, which have no node."""
        for directory in sorted((self.sys_root / "block").glob("*")):
            disk = BlockDevice(directory.name, self._dev / directory.name, directory)
            if not (directory / "partition").exists() and disk.text("hidden") != "1":
                yield disk

    def named(self, name: str) -> BlockDevice | None:
        return next((disk for disk in self if disk.name == name), None)
