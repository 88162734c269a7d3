"""VirtualBox's VDI, as far as QEMU reads it (block/vdi.c in QEMU)."""

import struct

from cloudmanager.images.entries import Entries
from cloudmanager.images.errors import DamagedImage, UnsafeImage, UnsupportedImage
from cloudmanager.images.source import ByteSource, Image, round_up
from cloudmanager.linux.block import SECTOR_BYTES

MAGIC = b"\x7f\x10\xda\xbe"
MAGIC_OFFSET = 64
_VERSION = 0x00010001
_BLOCK_BYTES = 1024 * 1024
_LAYOUT = struct.Struct("<II12xI4xQIIII32x32s")
_LAYOUT_OFFSET = 340
_DISCARDED = 0xFFFFFFFE
"""From here on an entry means that there is no block."""


def read(source: ByteSource) -> Image:
    header = source.exactly(0, SECTOR_BYTES, "header")
    (version,) = struct.unpack_from("<I", header, MAGIC_OFFSET + 4)
    if version != _VERSION:
        raise UnsupportedImage(f"VDI version {version >> 16}.{version & 0xFFFF} is not one that QEMU reads (1.1).")
    layout = _LAYOUT.unpack_from(header, _LAYOUT_OFFSET)
    map_offset, data_offset, sector_bytes, size, block_bytes, _extra, blocks, allocated, relatives = layout
    if relatives.strip(b"\0"):
        raise UnsafeImage("The image is a difference to a parent VDI. Merge them in VirtualBox.")
    if sector_bytes != SECTOR_BYTES or block_bytes != _BLOCK_BYTES or (map_offset | data_offset) % SECTOR_BYTES:
        raise DamagedImage("The image is damaged: its sector, block and table sizes are not those of a VDI.")
    if size > blocks * block_bytes or allocated > blocks:
        raise DamagedImage("The image is damaged: its size does not fit its number of blocks.")
    whole_blocks = max(0, source.size - data_offset) // block_bytes
    for piece in source.table(map_offset, blocks * 4, "block map"):
        entries = Entries(piece.data, 4, "little")
        numbers = entries.field(0, 32)
        if entries.at_least(numbers, whole_blocks) & entries.but(entries.at_least(numbers, _DISCARDED)):
            raise source.truncated("data")
    return Image("vdi", round_up(size))
