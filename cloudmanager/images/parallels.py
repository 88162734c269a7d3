"""Parallels' expanding disk (docs/interop/parallels.txt in QEMU)."""

import struct

from cloudmanager.images.entries import Entries
from cloudmanager.images.errors import DamagedImage, UnsupportedImage
from cloudmanager.images.source import ByteSource, Image
from cloudmanager.linux.block import SECTOR_BYTES

_MAGIC, _MAGIC_EXTENDED = MAGICS = (b"WithoutFreeSpace", b"WithouFreSpacExt")
_VERSION = 2
_HEADER = struct.Struct("<16sI8xIIQII")
_HEADER_BYTES = 64
_IN_USE = 0x746F6E59


def read(source: ByteSource) -> Image:
    header = source.exactly(0, _HEADER_BYTES, "header")
    magic, version, cluster_sectors, entries, sectors, in_use, _data = _HEADER.unpack_from(header)
    if version != _VERSION:
        raise UnsupportedImage(f"Version {version} of the Parallels format is not one that QEMU reads.")
    if magic == _MAGIC:
        sectors &= 0xFFFFFFFF  # the older kind has 32 bits here; what follows means nothing
    if not cluster_sectors or entries * cluster_sectors < sectors or sectors >= 1 << 54:
        raise DamagedImage("The image is damaged: its size does not fit its clusters.")
    unit_sectors = cluster_sectors if magic == _MAGIC_EXTENDED else 1
    _check_not_truncated(source, entries, unit_sectors, cluster_sectors * SECTOR_BYTES)
    unclean = "The image was not closed properly: run `qemu-img check -r all` on it before writing."
    return Image("parallels", sectors * SECTOR_BYTES, read_only_because=unclean if in_use == _IN_USE else "")


def _check_not_truncated(source: ByteSource, entries: int, unit_sectors: int, cluster_bytes: int) -> None:
    last_start = (source.size - cluster_bytes) // (unit_sectors * SECTOR_BYTES)
    for piece in source.table(_HEADER_BYTES, entries * 4, "block table"):
        clusters = Entries(piece.data, 4, "little")
        if clusters.at_least(clusters.field(0, 32), max(1, last_start + 1)):
            raise source.truncated("data")
