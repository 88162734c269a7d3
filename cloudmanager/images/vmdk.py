"""VMware's VMDK: the sparse extent that holds its own descriptor (VMware, Virtual Disk Format 5.0)."""

import re
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from cloudmanager.images import second_opinion
from cloudmanager.images.entries import Entries
from cloudmanager.images.errors import DamagedImage, NotADisk, UnsafeImage, UnsupportedImage
from cloudmanager.images.source import ByteSource, Image, Piece, merged
from cloudmanager.linux.block import SECTOR_BYTES

MAGIC = b"KDMV"
_HEADER = struct.Struct("<4sIIQQQQIQQQ")
_GRAIN_MARKER = struct.Struct("<QI")
_REDUNDANT_DIRECTORY = 1 << 1
_COMPRESSED = 1 << 16
_DIRECTORY_AT_END = 0xFFFFFFFFFFFFFFFF
_FOOTER_BYTES = 3 * SECTOR_BYTES
_DESCRIPTOR_OFFSET = SECTOR_BYTES
_MAX_DESCRIPTOR_BYTES = (1 << 20) - 1
_MAX_GRAIN_SECTORS = 0x200000
_MAX_TABLE_ENTRIES = 512
_MAX_DIRECTORY_BYTES = 16 * 1024 * 1024
"""Of 128 TiB with the usual grains; VMware makes disks of up to 62 TiB. QEMU keeps two directories in memory."""
_SELF_CONTAINED = ("monolithicsparse", "streamoptimized")
_OWN_EXTENT = re.compile(r'\w+\s+\d+\s+sparse\s+"[^"/]*"', re.IGNORECASE)
_NO_PARENT = "ffffffff"


@dataclass(frozen=True)
class _Header:
    version: int
    flags: int
    capacity_sectors: int
    grain_sectors: int
    descriptor_sector: int
    descriptor_sectors: int
    table_entries: int
    redundant_directory_sector: int
    directory_sector: int
    data_sector: int

    @classmethod
    def parse(cls, data: bytes) -> "_Header":
        magic, *fields = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise DamagedImage("The image is damaged: its footer is not that of a VMDK. It may be truncated.")
        return cls(*fields)

    @property
    def sectors_per_table(self) -> int:
        return self.table_entries * self.grain_sectors

    @property
    def tables(self) -> int:
        return -(-self.capacity_sectors // self.sectors_per_table)


def refuse_descriptor(_source: ByteSource) -> Image:
    raise UnsafeImage(
        "This is a VMDK descriptor: the data is in other files that it names. Make one self-contained image of them "
        "with `qemu-img convert -O qcow2`."
    )


def read(source: ByteSource) -> Image:
    header = _Header.parse(source.exactly(0, SECTOR_BYTES, "header"))
    _check_header(header)
    descriptor = _descriptor(source, header)
    _refuse_references(source, header, descriptor)
    if header.directory_sector == _DIRECTORY_AT_END:
        header = _Header.parse(source.up_to(source.size - 2 * SECTOR_BYTES, SECTOR_BYTES).ljust(SECTOR_BYTES, b"\0"))
        _check_header(header)
    _check_not_truncated(source, header)
    return Image(
        "vmdk",
        header.capacity_sectors * SECTOR_BYTES,
        backing=_parent(descriptor),
        read_only_because="QEMU only reads compressed (streamOptimized) VMDK." if header.flags & _COMPRESSED else "",
    )


def _check_header(header: _Header) -> None:
    if header.version not in (1, 2, 3):
        raise UnsupportedImage(
            f"VMDK version {header.version} is not read here. Convert it with `qemu-img convert -O qcow2`."
        )
    if header.capacity_sectors == 0:
        # QEMU then obeys the descriptor's list of extents instead: other files.
        raise UnsafeImage("The image holds no data of its own: its descriptor names other files.")
    if header.capacity_sectors >= 1 << 54:
        raise DamagedImage(f"The image is damaged: it claims {header.capacity_sectors} sectors.")
    if not 0 < header.table_entries <= _MAX_TABLE_ENTRIES or not 0 < header.grain_sectors <= _MAX_GRAIN_SECTORS:
        raise DamagedImage("The image is damaged: the sizes of its tables and grains are impossible.")


def _descriptor(source: ByteSource, header: _Header) -> str:
    length = min(header.descriptor_sectors * SECTOR_BYTES, _MAX_DESCRIPTOR_BYTES)
    if not header.descriptor_sector and not header.descriptor_sectors:
        raise _is_extent()
    if header.descriptor_sector * SECTOR_BYTES != _DESCRIPTOR_OFFSET or not length:
        raise DamagedImage("The image is damaged: it has no descriptor where VMDK keeps it.")
    data = source.exactly(_DESCRIPTOR_OFFSET, length, "descriptor")
    if not data.strip(b"\0"):
        raise _is_extent()  # as QEMU leaves it
    return data.split(b"\0", 1)[0].decode("ascii", "replace")


def _is_extent() -> NotADisk:
    kind = "an extent of a VMDK, which has a descriptor in another file"
    return NotADisk(f"This is {kind}, not a disk. Convert the whole of it with `qemu-img convert -O qcow2`.", kind)


def _refuse_references(source: ByteSource, header: _Header, descriptor: str) -> None:
    """But for a parent, which is left to the caller. oslo's check finds a footer only in a stream's last bytes."""
    kinds = re.findall(r'^\s*createtype\s*=\s*"?([^"\n]*)', descriptor, re.IGNORECASE | re.MULTILINE)
    extents = re.findall(r"^\s*(?:rw|rdonly|noaccess)\s.*", descriptor, re.IGNORECASE | re.MULTILINE)
    if not kinds or any(kind.lower() not in _SELF_CONTAINED for kind in kinds):
        raise _refers_elsewhere(f"createType {', '.join(kinds)[:80] or 'missing'}")
    if len(extents) != 1 or not _OWN_EXTENT.fullmatch(extents[0].strip()):
        raise _refers_elsewhere("extents in other files")
    end = _DESCRIPTOR_OFFSET + min(header.descriptor_sectors * SECTOR_BYTES, _MAX_DESCRIPTOR_BYTES)
    start = max(end, source.size - _FOOTER_BYTES)
    head = source.up_to(0, SECTOR_BYTES) + descriptor.encode("ascii", "replace").ljust(end - SECTOR_BYTES, b"\0")
    objections = second_opinion.refusals("vmdk", [head, source.up_to(start, _FOOTER_BYTES)])
    if "footer" in objections:
        raise DamagedImage(f"The image is damaged or truncated: {objections['footer']}.")
    if objections:
        raise _refers_elsewhere(", ".join(objections.values()))


def _refers_elsewhere(reason: str) -> UnsafeImage:
    return UnsafeImage(
        f"The image's descriptor is not that of a self-contained VMDK ({reason}). Make one image without extents with "
        "`qemu-img convert -O qcow2`."
    )


def _parent(descriptor: str) -> str | None:
    """The name in the descriptor, or what stands for a parent that is not named."""
    name = re.search(r'parentFileNameHint\s*=\s*"([^"]*)', descriptor, re.IGNORECASE)
    if name:
        return name[1]
    content = re.search(r"parentCID\s*=\s*([0-9a-f]+)", descriptor, re.IGNORECASE)
    return "" if content and content[1].lower() != _NO_PARENT else None


def _check_not_truncated(source: ByteSource, header: _Header) -> None:
    """Every grain table and every grain is inside the file."""
    if header.data_sector * SECTOR_BYTES > source.size:
        raise source.truncated("data")
    sector = header.redundant_directory_sector if header.flags & _REDUNDANT_DIRECTORY else header.directory_sector
    source.check_table(header.tables * 4, "grain directory", _MAX_DIRECTORY_BYTES)
    tables = source.pieces(_grain_table_ranges(source, sector * SECTOR_BYTES, header))
    if header.flags & _COMPRESSED:
        _check_compressed_grains(source, tables)
    else:
        _check_grains(source, header, tables)


def _grain_table_ranges(source: ByteSource, directory_offset: int, header: _Header) -> Iterator[tuple[int, int]]:
    """Raises TruncatedImage."""
    table_bytes = header.table_entries * 4
    for piece in source.table(directory_offset, header.tables * 4, "grain directory"):
        starts = sorted({entry * SECTOR_BYTES for (entry,) in struct.iter_unpack("<I", piece.data)} - {0})
        if starts and starts[-1] + table_bytes > source.size:
            raise source.truncated("grain table")
        yield from merged(starts, table_bytes)


def _check_grains(source: ByteSource, header: _Header, tables: Iterator[Piece]) -> None:
    """0 and 1 stand for grains that are not there."""
    last_start = source.size // SECTOR_BYTES - header.grain_sectors
    for piece in tables:
        grains = Entries(piece.data, 4, "little")
        if grains.at_least(grains.field(0, 32), max(2, last_start + 1)):
            raise source.truncated("data")


def _check_compressed_grains(source: ByteSource, tables: Iterator[Piece]) -> None:
    """Grains do not overlap: the one that starts last ends last, and says how long it is."""
    last = 1
    for piece in tables:
        starts = array("I", piece.data[: len(piece.data) // 4 * 4])
        if sys.byteorder == "big":
            starts.byteswap()
        last = max(last, max(starts, default=0))
    if last > 1:
        _sector, length = _GRAIN_MARKER.unpack(source.exactly(last * SECTOR_BYTES, _GRAIN_MARKER.size, "data"))
        if last * SECTOR_BYTES + _GRAIN_MARKER.size + int(length) > source.size:
            raise source.truncated("data")
