"""Microsoft's VHDX ([MS-VHDX])."""

import struct
from uuid import UUID

from cloudmanager.images.errors import DamagedImage, UnsafeImage, UnsupportedImage
from cloudmanager.images.image import Image
from cloudmanager.images.source import MAX_TABLE_BYTES, SECTOR, Source, round_up

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
_STATE_MASK = 0x7
_PRESENT = (6, 7)
_OFFSET_MASK = ~0xFFFFF
_LARGE_SECTOR = 4096
_MAX_SIZE_BYTES = 64 * 1024**4


def read(source: Source) -> Image:
    _refuse_unwritten_log(source)
    regions = _entries(source.exactly(_REGIONS_OFFSET, _TABLE_BYTES, "region table"), b"regi", 8, 16, _REGION)
    if _METADATA not in regions or _BLOCK_TABLE not in regions:
        raise DamagedImage("The image is damaged: its region table lacks the metadata or the block table.")
    offset, _length = regions[_METADATA]
    table = source.exactly(offset, _TABLE_BYTES, "metadata")
    items = _entries(table, b"metadata", 10, 32, _ITEM)
    block_bytes = _block_bytes(source, offset, items)
    size = _item(source, offset, items, _VIRTUAL_DISK_SIZE, "<Q")
    if size > _MAX_SIZE_BYTES or size % SECTOR:
        raise DamagedImage(f"The image is damaged: a VHDX cannot have {size} bytes.")
    sector_bytes = _item(source, offset, items, _LOGICAL_SECTOR_SIZE, "<I")
    _refuse_large_sectors(sector_bytes)
    _check_not_truncated(source, *regions[_BLOCK_TABLE], block_bytes)
    return Image("vhdx", size, logical_sector_bytes=sector_bytes)


def _refuse_large_sectors(sector_bytes: int) -> None:
    """QEMU accepts 4096 and then counts in 512 (block/vhdx.c, vhdx_open), or does not open it, by its version."""
    if sector_bytes == _LARGE_SECTOR:
        raise UnsupportedImage(
            "The image has logical sectors of 4096 bytes, which QEMU does not read. Attach it to a machine with "
            "Hyper-V and copy its bytes into a raw image."
        )
    if sector_bytes != SECTOR:
        raise DamagedImage(f"The image is damaged: a VHDX cannot have sectors of {sector_bytes} bytes.")


def _refuse_unwritten_log(source: Source) -> None:
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


def _block_bytes(source: Source, metadata_offset: int, items: dict[bytes, tuple[int, int]]) -> int:
    parameters = _item(source, metadata_offset, items, _FILE_PARAMETERS, "<Q")
    if parameters >> 32 & _HAS_PARENT:
        raise UnsafeImage("The image is a difference to a parent VHDX. Merge them in Hyper-V (Merge-VHD).")
    return parameters & 0xFFFFFFFF


def _item(source: Source, metadata_offset: int, items: dict[bytes, tuple[int, int]], guid: bytes, layout: str) -> int:
    if guid not in items:
        raise DamagedImage("The image is damaged: its metadata is incomplete.")
    data = source.exactly(metadata_offset + items[guid][0], struct.calcsize(layout), "metadata")
    (value,) = struct.unpack(layout, data)
    return int(value)


def _check_not_truncated(source: Source, offset: int, length: int, block_bytes: int) -> None:
    table = source.exactly(offset, min(length // 8 * 8, MAX_TABLE_BYTES), "block table")
    used = table[: round_up(len(table.rstrip(b"\0")), 8)]  # the table of a small disk is mostly padding
    present = (entry & _OFFSET_MASK for (entry,) in struct.iter_unpack("<Q", used) if entry & _STATE_MASK in _PRESENT)
    last = max(present, default=None)
    if last is not None and last + block_bytes > source.size:
        raise source.truncated("data")
