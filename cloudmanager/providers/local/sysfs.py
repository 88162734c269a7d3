"""Block devices as sysfs describes them (Documentation/ABI/stable/sysfs-block in Linux)."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.linux.block import SECTOR_BYTES
from cloudmanager.providers.local.roots import Roots, read_text

_VPD_HEADER_BYTES = 4


@dataclass(frozen=True)
class BlockDevice:
    """A whole disk or a partition."""

    name: str
    """The kernel's."""
    number: int
    """As st_rdev has it."""
    size_bytes: int
    logical_sector_bytes: int
    is_read_only: bool
    whole_disk: str
    """The name of the disk that a partition is on, else its own."""
    serial: str
    world_wide_name: str
    vendor: str
    model: str
    bus_path: str
    """Where it is plugged in, from /sys/devices on."""
    sequence: str
    """The kernel's count of the disks that it has seen since it started (diskseq, Linux 5.15)."""
    mapper_uuid: str
    holders: tuple[str, ...]
    """Devices built on top of it."""
    parts: tuple[str, ...]
    """What it is built of itself."""

    @property
    def is_partition(self) -> bool:
        return self.whole_disk != self.name

    @property
    def node_name(self) -> str:
        """Below /dev: sysfs writes a slash as an exclamation mark."""
        return self.name.replace("!", "/")


def read(roots: Roots, name: str) -> BlockDevice | None:
    """None if there is no such device."""
    link = roots.sys / "class/block" / name
    directory = Path(os.path.realpath(link))
    number = re.fullmatch(r"(\d+):(\d+)", read_text(directory / "dev"))
    if not number:
        return None
    whole = directory.parent if (directory / "partition").exists() else directory
    return BlockDevice(
        name,
        os.makedev(int(number[1]), int(number[2])),
        _size_bytes(directory) if _size_bytes(whole) else 0,  # a loop device's partitions can outlive its medium
        int(read_text(whole / "queue/logical_block_size") or SECTOR_BYTES),
        read_text(directory / "ro") == "1",
        whole.name,
        _serial(whole),
        read_text(whole / "wwid") or read_text(whole / "device/wwid"),
        read_text(whole / "device/vendor"),
        read_text(whole / "device/model"),
        str(whole),
        read_text(whole / "diskseq"),
        read_text(directory / "dm/uuid"),
        _names(directory / "holders"),
        _names(directory / "slaves"),
    )


def partitions(roots: Roots, disk: BlockDevice) -> Iterator[BlockDevice]:
    for child in sorted((roots.sys / "class/block" / disk.name).glob("*/partition")):
        partition = read(roots, child.parent.name)
        if partition:
            yield partition


def by_number(roots: Roots, number: int) -> BlockDevice | None:
    link = roots.sys / "dev/block" / f"{os.major(number)}:{os.minor(number)}"
    return read(roots, Path(os.path.realpath(link)).name)


def all_devices(roots: Roots) -> Iterator[BlockDevice]:
    """In the order of their names, with numbers counted."""
    for name in sorted(_names(roots.sys / "class/block"), key=natural_order):
        device = read(roots, name)
        if device:
            yield device


def natural_order(name: str) -> list[tuple[str, int]]:
    """sda2 before sda10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def _size_bytes(directory: Path) -> int:
    return int(read_text(directory / "size") or 0) * SECTOR_BYTES


def _serial(whole: Path) -> str:
    serial = read_text(whole / "serial") or read_text(whole / "device/serial")
    if serial:
        return serial
    try:
        page = (whole / "device/vpd_pg80").read_bytes()
    except OSError as error:
        raise_exhausted(error)
        return ""
    return page[_VPD_HEADER_BYTES:].decode("ascii", "replace").strip(" \0")


def _names(directory: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(os.listdir(directory)))  # noqa: PTH208 - the names are what is wanted
    except OSError as error:
        raise_exhausted(error)
        return ()
