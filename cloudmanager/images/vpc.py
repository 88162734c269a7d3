"""Microsoft's VHD, which QEMU calls vpc (Virtual Hard Disk Image Format Specification 1.0)."""

import struct
from dataclasses import dataclass

from cloudmanager.images.entries import Entries
from cloudmanager.images.errors import DamagedImage, UnsafeImage, UnsupportedImage
from cloudmanager.images.source import ByteSource, Image, round_up
from cloudmanager.linux.block import SECTOR_BYTES

MAGIC = b"conectix"
_FOOTER = struct.Struct(">8sIIQ4x4s4x4s8xQHBBII")
_CHECKSUM_OFFSET = 64
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_DYNAMIC_HEADER = struct.Struct(">8s8xQ4xIII")
_DYNAMIC_HEADER_BYTES = 1024
_DYNAMIC_CHECKSUM_OFFSET = 36
_UNALLOCATED = 0xFFFFFFFF
_LARGEST_GEOMETRY = 65535 * 16 * 255
_SIZED_BY_GEOMETRY = (b"vpc ", b"qemu")
"""Virtual PC, and QEMU without force_size, which imitates it: their guests saw a disk of the geometry's size. Every
other creator means the size field (Hyper-V, Azure, VirtualBox, VMware, Xen, Disk2vhd). QEMU 7.2 knows that of five
creators and takes the geometry for the rest, so it needs an option: force_size_calc in its block/vpc.c. The field is
"Current Size" in the Virtual Hard Disk Image Format Specification."""


@dataclass(frozen=True)
class _Footer:
    data_offset: int
    creator: bytes
    size_field: int
    geometry_sectors: int
    disk_type: int
    is_intact: bool

    @classmethod
    def parse(cls, data: bytes) -> "_Footer":
        magic, _features, _version, offset, creator, _os, size, cylinders, heads, sectors, disk_type, checksum = (
            _FOOTER.unpack_from(data)
        )
        return cls(
            offset,
            creator,
            size,
            cylinders * heads * sectors,
            disk_type,
            magic == MAGIC and checksum == _checksum(data, _CHECKSUM_OFFSET),
        )

    @property
    def is_sized_by_geometry(self) -> bool:
        """The largest geometry stands for any size from there on; one that is larger than the field is a mistake."""
        geometry_bytes = self.geometry_sectors * SECTOR_BYTES
        return (
            self.creator in _SIZED_BY_GEOMETRY
            and self.geometry_sectors != _LARGEST_GEOMETRY
            and 0 < geometry_bytes <= self.size_field
        )

    @property
    def size_bytes(self) -> int:
        return (self.geometry_sectors if self.is_sized_by_geometry else self.size_field // SECTOR_BYTES) * SECTOR_BYTES

    @property
    def image(self) -> Image:
        rule = "chs" if self.is_sized_by_geometry else "current_size"
        return Image("vpc", self.size_bytes, driver_options={"force_size_calc": rule})


def fixed(source: ByteSource, footer: bytes) -> Image | None:
    """A raw disk with a footer behind it, if that footer is whole and says so; None if it is only a raw disk."""
    if not footer.startswith(MAGIC):
        return None
    parsed = _Footer.parse(footer)
    fits = parsed.size_field == source.size - SECTOR_BYTES and 0 < parsed.size_bytes <= parsed.size_field
    return parsed.image if parsed.is_intact and parsed.disk_type == _FIXED and fits else None


def read(source: ByteSource) -> Image:
    """A dynamic VHD, which starts with a copy of its footer."""
    footer = _Footer.parse(source.exactly(0, SECTOR_BYTES, "header"))
    if not footer.is_intact:
        raise DamagedImage("The image is damaged: the checksum of its VHD header is wrong.")
    if footer.disk_type == _DIFFERENCING:
        raise UnsafeImage("The image is a difference to a parent VHD. Merge them where they were made.")
    if footer.disk_type != _DYNAMIC:
        raise UnsupportedImage(f"VHD type {footer.disk_type} is not one that QEMU reads.")
    _check_blocks(source, footer)
    return footer.image


def _check_blocks(source: ByteSource, footer: _Footer) -> None:
    header = source.exactly(footer.data_offset, _DYNAMIC_HEADER_BYTES, "dynamic disk header")
    magic, table_offset, entries, block_bytes, checksum = _DYNAMIC_HEADER.unpack_from(header)
    if magic != b"cxsparse" or checksum != _checksum(header, _DYNAMIC_CHECKSUM_OFFSET):
        raise DamagedImage("The image is damaged: its dynamic disk header is not valid.")
    if block_bytes < SECTOR_BYTES or block_bytes & (block_bytes - 1) or entries * block_bytes < footer.size_bytes:
        raise DamagedImage("The image is damaged: its size does not fit its blocks.")
    bitmap_bytes = round_up(block_bytes // SECTOR_BYTES // 8)
    last_start = source.size - bitmap_bytes - block_bytes
    for piece in source.table(table_offset, entries * 4, "block table"):
        sectors = Entries(piece.data, 4, "big")
        starts = sectors.field(0, 32)
        if sectors.at_least(starts, max(0, last_start // SECTOR_BYTES + 1)) & sectors.but(
            sectors.at_least(starts, _UNALLOCATED)
        ):
            raise source.truncated("data")


def _checksum(data: bytes, field_offset: int) -> int:
    """One's complement of the sum of all bytes but the field's own."""
    return ~(sum(data) - sum(data[field_offset : field_offset + 4])) & 0xFFFFFFFF
