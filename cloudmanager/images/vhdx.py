"""Microsoft's VHDX ([MS-VHDX])."""

import struct
from uuid import UUID

from cloudmanager.images.entries import Entries
from cloudmanager.images.errors import DamagedImage, UnsafeImage, UnsupportedImage
from cloudmanager.images.source import ByteSource, Image
from cloudmanager.linux.block import SECTOR_BYTES

MAGIC = b"vhdxfile"
_HEADER_OFFSETS = (64 * 1024, 128 * 1024)
_HEADER = struct.Struct("<4s4xQ32x16s")
_REGIONS_OFFSET = 192 * 1024
_TABLE_BYTES = 64 * 1024
_REGION = struct.Struct("<16sQI4x")
_ITEM = struct.Struct("<16sII8x")
_MAX_ENTRIES = 2047
_BLOCK_TABLE = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le
_METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_VIRTUAL_DISK_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
_LOGICAL_SECTOR_SIZE = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f").bytes_le
_HAS_PARENT = 1 << 1
_MEGABYTE = 1 << 20
_SMALLEST_BLOCK_BYTES = 1 << 20
_SECTORS_PER_CHUNK = 1 << 23
_LARGE_SECTOR = 4096
_MAX_SIZE_BYTES = 64 * 1024**4


def read(source: ByteSource) -> Image:
    _refuse_unwritten_log(source)
    regions = _entries(source.exactly(_REGIONS_OFFSET, _TABLE_BYTES, "region table"), b"regi", 8, 16, _REGION)
    if _METADATA not in regions or _BLOCK_TABLE not in regions:
        raise DamagedImage("The image is damaged: its region table lacks the metadata or the block table.")
    offset, _length = regions[_METADATA]
    table = source.exactly(offset, _TABLE_BYTES, "metadata")
    items = _entries(table, b"metadata", 10, 32, _ITEM)
    block_bytes = _block_bytes(source, offset, items)
    size = _item(source, offset, items, _VIRTUAL_DISK_SIZE, "<Q")
    if size > _MAX_SIZE_BYTES or size % SECTOR_BYTES:
        raise DamagedImage(f"The image is damaged: a VHDX cannot have {size} bytes.")
    sector_bytes = _item(source, offset, items, _LOGICAL_SECTOR_SIZE, "<I")
    _refuse_large_sectors(sector_bytes)
    _check_not_truncated(source, regions, size, block_bytes)
    return Image("vhdx", size, logical_sector_bytes=sector_bytes)


def _refuse_large_sectors(sector_bytes: int) -> None:
    """QEMU accepts 4096 and then counts in 512 (block/vhdx.c, vhdx_open), or does not open it, by its version."""
    if sector_bytes == _LARGE_SECTOR:
        raise UnsupportedImage(
            "The image has logical sectors of 4096 bytes, which QEMU does not read. Attach it to a machine with "
            "Hyper-V and copy its bytes into a raw image."
        )
    if sector_bytes != SECTOR_BYTES:
        raise DamagedImage(f"The image is damaged: a VHDX cannot have sectors of {sector_bytes} bytes.")


def _refuse_unwritten_log(source: ByteSource) -> None:
    headers = [_HEADER.unpack_from(source.exactly(at, 4096, "header")) for at in _HEADER_OFFSETS]
    valid = [(sequence, log) for signature, sequence, log in headers if signature == b"head"]
    if not valid:
        raise DamagedImage("The image is damaged: neither copy of its VHDX header is valid.")
    if max(valid)[1].strip(b"\0"):
        raise UnsupportedImage(
            "The image was not closed properly: changes in its log are not in place yet. Let its hypervisor close it, "
            "or run `qemu-img check -r all` on a copy."
        )


def _entries(
    table: bytes, signature: bytes, count_offset: int, first: int, layout: struct.Struct
) -> dict[bytes, tuple[int, int]]:
    """A table of VHDX: GUID to (offset, length)."""
    (count,) = struct.unpack_from("<H", table, count_offset)
    if not table.startswith(signature) or count > _MAX_ENTRIES:
        raise DamagedImage(f"The image is damaged: its {signature.decode()} table is not valid.")
    entries = struct.iter_unpack(layout.format, table[first:][: count * layout.size])
    return {guid: (offset, length) for guid, offset, length in entries}


def _block_bytes(source: ByteSource, metadata_offset: int, items: dict[bytes, tuple[int, int]]) -> int:
    parameters = _item(source, metadata_offset, items, _FILE_PARAMETERS, "<Q")
    if parameters >> 32 & _HAS_PARENT:
        raise UnsafeImage("The image is a difference to a parent VHDX. Merge them in Hyper-V (Merge-VHD).")
    return parameters & 0xFFFFFFFF


def _item(
    source: ByteSource, metadata_offset: int, items: dict[bytes, tuple[int, int]], guid: bytes, layout: str
) -> int:
    if guid not in items:
        raise DamagedImage("The image is damaged: its metadata is incomplete.")
    data = source.exactly(metadata_offset + items[guid][0], struct.calcsize(layout), "metadata")
    (value,) = struct.unpack(layout, data)
    return int(value)


def _check_not_truncated(
    source: ByteSource, regions: dict[bytes, tuple[int, int]], size: int, block_bytes: int
) -> None:
    """Every block is inside the file; the last one may end with the disk, as QEMU writes fixed images."""
    if block_bytes < _SMALLEST_BLOCK_BYTES or block_bytes & (block_bytes - 1):
        raise DamagedImage(f"The image is damaged: blocks of {block_bytes} bytes do not exist in VHDX.")
    blocks_per_chunk = _SECTORS_PER_CHUNK * SECTOR_BYTES // block_bytes
    blocks = -(-size // block_bytes)
    used = blocks + (blocks - 1) // blocks_per_chunk  # a bitmap of sectors follows each chunk of blocks
    offset, length = regions[_BLOCK_TABLE]
    if used * 8 > length:
        raise DamagedImage("The image is damaged: its block table is smaller than its virtual size needs.")
    for piece in source.table(offset, used * 8, "block table"):
        entries = Entries(piece.data, 8, "little")
        is_present = entries.flags(1) & entries.flags(2)  # states 6 and 7
        megabytes = (source.size - block_bytes) // _MEGABYTE
        beyond = is_present & entries.at_least(entries.field(20, 44), max(0, megabytes + 1))
        for number, entry in entries.chosen(beyond).items():
            index = (piece.offset - offset) // 8 + number
            start_on_disk = (index - index // (blocks_per_chunk + 1)) * block_bytes
            if (entry >> 20) * _MEGABYTE + min(block_bytes, max(0, size - start_on_disk)) > source.size:
                raise source.truncated("data")
