"""Reads the layout of a disk: partitions, logical volumes, file systems. Changes nothing and needs no privileges.

The tables are read by libblkid (`blkid`, `partx`), which is on every Debian.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.client import sector_size
from cloudmanager.client.access_methods import lvm
from cloudmanager.client.access_methods.command import run
from cloudmanager.linux.block import SECTOR_BYTES

_NOTHING_FOUND = 2
_AMBIGUOUS = 8
_NO_TABLE = 1
_LVM_MEMBER = "LVM2_member"


@dataclass(frozen=True)
class Content:
    """What a part begins with."""

    type: str
    """`ext4`, `xfs`, `ntfs`, `crypto_LUKS`, `LVM2_member`, `swap`…, as blkid names it."""
    usage: str
    """`filesystem`, `crypto`, `raid` or `other`."""
    label: str = ""
    uuid: str = ""


@dataclass(frozen=True)
class Part:
    """A stretch of the disk: all of it, a partition, or a logical volume."""

    name: str
    """`disk`; the number of a partition; `group/name` of a logical volume."""
    start_bytes: int | None
    """None: not in one piece on this disk."""
    size_bytes: int
    content: Content | None = None
    kind: str = ""
    """Of a partition: the GUID (GPT) or the number (MBR) of its type."""
    label: str = ""
    """The partition's own name (GPT)."""

    @property
    def is_filesystem(self) -> bool:
        return self.content is not None and self.content.usage == "filesystem"

    def __str__(self) -> str:
        content = self.content.type if self.content else "unknown content"
        return (
            f"{self.name} ({content}, {self.size_bytes} bytes{'' if self.start_bytes is not None else ', in pieces'})"
        )


@dataclass(frozen=True)
class Layout:
    scheme: str
    """`gpt`, `dos`; empty without a partition table."""
    parts: tuple[Part, ...]
    """In the order of the table; the logical volumes at the end."""
    logical_sector_bytes: int = sector_size.SMALL
    """That the table was read with."""

    def part(self, name: str) -> Part | None:
        return next((part for part in self.parts if part.name == name), None)


def read_layout(disk: Path, logical_sector_bytes: int | None = None) -> Layout:
    """Of a file or a block device. Raises AccessFailed; OSError when it cannot be read.

    `logical_sector_bytes` is what the disk's server says; a table that was made for other sectors is read with those.
    """
    sector_bytes = sector_size.of_path(disk, logical_sector_bytes)
    size = _size(disk)
    content = _content(disk, 0, None)
    scheme, partitions = _partitions(disk, sector_bytes)
    parts = list(partitions)
    if content or not partitions:
        parts.insert(0, Part("disk", 0, size, content))
    parts += [volume for part in parts for volume in _logical_volumes(disk, part)]
    return Layout(scheme, tuple(parts), sector_bytes)


def _partitions(disk: Path, sector_bytes: int) -> tuple[str, list[Part]]:
    columns = "NR,START,SECTORS,NAME,TYPE,SCHEME"
    how = ("--sector-size", str(sector_bytes), "--pairs", "--output", columns)
    table = run("partx", *how, disk, accept=(0, _NO_TABLE))
    rows = [dict(re.findall(r'(\w+)="([^"]*)"', line)) for line in table.splitlines()]
    return rows[0]["SCHEME"] if rows else "", [_partition(disk, row) for row in rows]


def _partition(disk: Path, row: dict[str, str]) -> Part:
    # partx counts in units of 512 bytes, whatever the sectors of the table are.
    start, size = int(row["START"]) * SECTOR_BYTES, int(row["SECTORS"]) * SECTOR_BYTES
    return Part(row["NR"], start, size, _content(disk, start, size), row["TYPE"], _plain(row["NAME"]))


def _logical_volumes(disk: Path, member: Part) -> list[Part]:
    if member.start_bytes is None or member.content is None or member.content.type != _LVM_MEMBER:
        return []
    found = lvm.logical_volumes(disk, range(member.start_bytes, member.start_bytes + member.size_bytes))
    return [_logical_volume(disk, volume) for volume in found]


def _logical_volume(disk: Path, volume: lvm.LogicalVolume) -> Part:
    content = None if volume.start_bytes is None else _content(disk, volume.start_bytes, volume.size_bytes)
    return Part(volume.name, volume.start_bytes, volume.size_bytes, content)


def _content(disk: Path, start: int, size: int | None) -> Content | None:
    """None: nothing that libblkid knows, or several things at once."""
    where = ["--offset", str(start), *(["--size", str(size)] if size else [])]
    printed = run("blkid", "--probe", "--output", "udev", *where, disk, accept=(0, _NOTHING_FOUND, _AMBIGUOUS))
    found = dict(line.removeprefix("ID_FS_").split("=", 1) for line in printed.splitlines() if "=" in line)
    if "TYPE" not in found:
        return None
    label = _plain(found.get("LABEL_ENC", ""))
    return Content(found["TYPE"], found.get("USAGE", "other"), label, found.get("UUID", ""))


def _plain(text: str) -> str:
    r"""Both programs write bytes that are special to a shell as `\x24`."""
    encoded = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())
    return encoded.decode(errors="replace")


def _size(disk: Path) -> int:
    with disk.open("rb") as file:
        return file.seek(0, 2)
