"""VMware's VMDK: the sparse extent that holds its own descriptor (VMware, Virtual Disk Format 5.0)."""

import re
import struct
from dataclasses import dataclass

from cloudmanager.images import second_opinion
from cloudmanager.images.errors import DamagedImage, UnsafeImage, UnsupportedImage
from cloudmanager.images.image import Image
from cloudmanager.images.source import SECTOR, Source

MAGIC = b"KDMV"
_HEADER = struct.Struct("<4sIIQQQQIQQ")
_GRAIN_MARKER = struct.Struct("<QI")
_REDUNDANT_DIRECTORY = 1 << 1
_COMPRESSED = 1 << 16
_DIRECTORY_AT_END = 0xFFFFFFFFFFFFFFFF
_FOOTER_BYTES = 3 * SECTOR
_DESCRIPTOR_OFFSET = SECTOR
_MAX_DESCRIPTOR_BYTES = (1 << 20) - 1
_MAX_GRAIN_SECTORS = 0x200000
_MAX_TABLE_ENTRIES = 512
_MAX_TABLES_WALKED = 16384
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


def refuse_descriptor(_source: Source) -> Image:
    raise UnsafeImage(
        "This is a VMDK descriptor: the data is in other files that it names. Make one self-contained image of them "
        "with `qemu-img convert -O qcow2`."
    )


def read(source: Source) -> Image:
    header = _Header.parse(source.exactly(0, SECTOR, "header"))
    _check_header(header)
    descriptor = _descriptor(source, header)
    _refuse_references(source, header)
    if header.directory_sector == _DIRECTORY_AT_END:
        header = _Header.parse(source.up_to(source.size - 2 * SECTOR, SECTOR).ljust(SECTOR, b"\0"))
        _check_header(header)
    _check_not_truncated(source, header)
    return Image(
        "vmdk",
        header.capacity_sectors * SECTOR,
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


def _descriptor(source: Source, header: _Header) -> str:
    length = min(header.descriptor_sectors * SECTOR, _MAX_DESCRIPTOR_BYTES)
    if header.descriptor_sector * SECTOR != _DESCRIPTOR_OFFSET or not length:
        raise DamagedImage("The image is damaged: it has no descriptor where VMDK keeps it.")
    data = source.exactly(_DESCRIPTOR_OFFSET, length, "descriptor")
    return data.split(b"\0", 1)[0].decode("ascii", "replace")


def _refuse_references(source: Source, header: _Header) -> None:
    """oslo's check lets a parent through (`_parent` does not), and finds a footer only in a stream's last bytes."""
    end = _DESCRIPTOR_OFFSET + min(header.descriptor_sectors * SECTOR, _MAX_DESCRIPTOR_BYTES)
    start = max(end, source.size - _FOOTER_BYTES)
    chunks = [source.up_to(0, end), source.up_to(start, _FOOTER_BYTES)]
    objections = second_opinion.refusals("vmdk", chunks)
    if "footer" in objections:
        raise DamagedImage(f"The image is damaged or truncated: {objections['footer']}.")
    if objections:
        raise UnsafeImage(
            f"The image's descriptor is not that of a self-contained VMDK ({', '.join(objections.values())}). Export "
            "one image without extents, made with `qemu-img convert -O qcow2`."
        )


def _parent(descriptor: str) -> str | None:
    """The name in the descriptor, or what stands for a parent that is not named."""
    name = re.search(r'parentFileNameHint\s*=\s*"([^"]*)', descriptor, re.IGNORECASE)
    if name:
        return name[1]
    content = re.search(r"parentCID\s*=\s*([0-9a-f]+)", descriptor, re.IGNORECASE)
    return "" if content and content[1].lower() != _NO_PARENT else None


def _check_not_truncated(source: Source, header: _Header) -> None:
    """Every grain table, and every grain as far as a bounded number of tables says, starts inside the file."""
    sector = header.redundant_directory_sector if header.flags & _REDUNDANT_DIRECTORY else header.directory_sector
    directory = source.exactly(sector * SECTOR, header.tables * 4, "grain directory")
    tables = sorted({entry for (entry,) in struct.iter_unpack("<I", directory)} - {0})
    if tables and tables[-1] * SECTOR >= source.size:
        raise source.truncated("grain table")
    for table_sector in tables[:_MAX_TABLES_WALKED]:
        table = source.exactly(table_sector * SECTOR, header.table_entries * 4, "grain table")
        last = max(struct.unpack(f"<{header.table_entries}I", table)) * SECTOR
        if _end_of_grain(source, header, last) > source.size:
            raise source.truncated("data")


def _end_of_grain(source: Source, header: _Header, start: int) -> int:
    """At least; a compressed grain says how long it is, another may be cut short at the end of the disk."""
    if not header.flags & _COMPRESSED or start <= SECTOR:
        return start + 1
    _sector, length = _GRAIN_MARKER.unpack(source.exactly(start, _GRAIN_MARKER.size, "data"))
    return start + _GRAIN_MARKER.size + int(length)
