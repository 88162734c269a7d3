"""QEMU's qcow2 (docs/interop/qcow2.txt in QEMU)."""

import struct
from dataclasses import dataclass, replace

from cloudmanager.images import second_opinion
from cloudmanager.images.errors import DamagedImage, UnsafeImage, UnsupportedImage
from cloudmanager.images.image import Image
from cloudmanager.images.source import SECTOR, Source

MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQI12x")
_HEADER_V3 = struct.Struct(">QQQII")
_OFFSET_MASK = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_READS_AS_ZERO = 1
_MAX_BACKING_NAME = 1023
_MAX_L1_BYTES = 32 * 1024 * 1024
_MAX_REFCOUNT_TABLE_BYTES = 8 * 1024 * 1024
_MAX_TABLES_WALKED = 2048

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN_FEATURES = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2


@dataclass(frozen=True)
class _Header:
    version: int
    backing_offset: int
    backing_length: int
    cluster_bits: int
    size_bytes: int
    encryption: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    features: int = 0
    refcount_order: int = 4

    @classmethod
    def parse(cls, sector: bytes) -> "_Header":
        _magic, *fields = _HEADER.unpack_from(sector)
        header = cls(*fields)
        if header.version == 2:
            return header
        features, _compatible, _autoclear, refcount_order, _length = _HEADER_V3.unpack_from(sector, _HEADER.size)
        return replace(header, features=features, refcount_order=refcount_order)

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l2_entry_bytes(self) -> int:
        return 16 if self.features & _EXTENDED_L2 else 8


def read(source: Source) -> Image:
    sector = source.exactly(0, SECTOR, "header")
    header = _Header.parse(sector)
    _refuse_unsupported(header)
    _refuse_references(header, sector)
    _check_geometry(header)
    l1_table = _l1_table(source, header)
    _check_not_truncated(source, header, l1_table)
    damaged = "QEMU marked the image as corrupt, so it is read-only until `qemu-img check -r all` repairs it."
    return Image(
        "qcow2",
        header.size_bytes // SECTOR * SECTOR,
        backing=_backing(source, header),
        read_only_because=damaged if header.features & _CORRUPT else "",
    )


def _refuse_unsupported(header: _Header) -> None:
    if header.version not in (2, 3):
        raise UnsupportedImage(
            f"Version {header.version} of qcow is not read here. Convert the image with `qemu-img convert -O qcow2`."
        )
    if header.encryption:
        raise UnsupportedImage(
            "The image is encrypted, and no key is kept here. Decrypt it with `qemu-img convert` where its key is."
        )
    unknown = header.features & ~_KNOWN_FEATURES
    if unknown:
        raise UnsupportedImage(
            f"The image uses qcow2 features that are not known here (bits {unknown:#x}). Convert it with "
            "`qemu-img convert -O qcow2` of the QEMU that made it."
        )


def _refuse_references(header: _Header, sector: bytes) -> None:
    objections = second_opinion.refusals("qcow2", [sector])
    objections.pop("backing_file", None)  # the caller decides
    if header.features & _EXTENDED_L2:
        objections.pop("unknown_features", None)  # extended L2 entries refer to nothing, and QEMU reads them since 5.2
    if header.features & _DATA_FILE or objections:
        reasons = ", ".join(objections.values()) or "data file"
        raise UnsafeImage(
            f"The image keeps its data in another file ({reasons}). Make it self-contained with `qemu-img convert`."
        )


def _check_geometry(header: _Header) -> None:
    if not 9 <= header.cluster_bits <= 21:
        raise DamagedImage(f"The image is damaged: clusters of 2^{header.cluster_bits} bytes do not exist in qcow2.")
    if header.size_bytes >= 1 << 63:
        raise DamagedImage(f"The image is damaged: it claims a virtual size of {header.size_bytes} bytes.")
    if header.refcount_order > 6:
        raise DamagedImage("The image is damaged: its reference counts are wider than 64 bits.")
    per_l1_entry = header.cluster_bytes // header.l2_entry_bytes * header.cluster_bytes
    if header.l1_entries * 8 > _MAX_L1_BYTES or header.l1_entries * per_l1_entry < header.size_bytes:
        raise DamagedImage("The image is damaged: its first-level table does not fit its virtual size.")
    if not 0 < header.refcount_clusters * header.cluster_bytes <= _MAX_REFCOUNT_TABLE_BYTES:
        raise DamagedImage("The image is damaged: the size of its reference count table is wrong.")
    if (header.l1_offset | header.refcount_offset) % header.cluster_bytes:
        raise DamagedImage("The image is damaged: one of its tables does not start at a cluster.")


def _l1_table(source: Source, header: _Header) -> list[int]:
    """The offsets of the second-level tables. QEMU writes these in whole clusters, so each must be inside the file."""
    data = source.exactly(header.l1_offset, header.l1_entries * 8, "first-level table")
    offsets = sorted({entry & _OFFSET_MASK for (entry,) in struct.iter_unpack(">Q", data)} - {0})
    if offsets and offsets[-1] + header.cluster_bytes > source.size:
        raise source.truncated("second-level table")
    return offsets


def _check_not_truncated(source: Source, header: _Header, l1_table: list[int]) -> None:
    """QEMU reads zeros where a truncated image ends, without a word: that must not pass as the disk's content.

    The reference counts tell at once how far the file should reach. A count without a cluster can also be left over
    from a crash, which harms nothing, so only a mapped cluster beyond the end condemns the image.
    """
    if header.features & _DIRTY or _last_counted_cluster(source, header) < source.size:
        return
    for offset in l1_table[:_MAX_TABLES_WALKED]:
        table = source.exactly(offset, header.cluster_bytes, "second-level table")
        if _furthest_cluster(table, header) >= source.size:
            raise source.truncated("data")


def _last_counted_cluster(source: Source, header: _Header) -> int:
    """Where the last cluster starts that has a reference count."""
    table_bytes = header.refcount_clusters * header.cluster_bytes
    table = source.exactly(header.refcount_offset, table_bytes, "reference count table")
    blocks = [entry & ~0x1FF for (entry,) in struct.iter_unpack(">Q", table)]
    last = max((index for index, offset in enumerate(blocks) if offset), default=None)
    if last is None:
        return 0
    counts = source.exactly(blocks[last], header.cluster_bytes, "reference counts").rstrip(b"\0")
    last_bit = (len(counts) - 1) * 8 + counts[-1].bit_length() - 1 if counts else 0
    bits_before = last * header.cluster_bytes * 8
    return (bits_before + last_bit) >> header.refcount_order << header.cluster_bits


def _furthest_cluster(table: bytes, header: _Header) -> int:
    compressed_mask = (1 << (62 - (header.cluster_bits - 8))) - 1
    furthest = 0
    for entry, *_bitmap in struct.iter_unpack(">QQ" if header.l2_entry_bytes == 16 else ">Q", table):
        if entry & _COMPRESSED:
            furthest = max(furthest, entry & compressed_mask)
        elif not (entry & _READS_AS_ZERO and header.version == 3):
            furthest = max(furthest, entry & _OFFSET_MASK)
    return furthest


def _backing(source: Source, header: _Header) -> str | None:
    if not header.backing_offset:
        return None
    if not 0 < header.backing_length <= _MAX_BACKING_NAME:
        raise DamagedImage("The image is damaged: the name of its backing file has an impossible length.")
    name = source.exactly(header.backing_offset, header.backing_length, "backing file name")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise DamagedImage("The image is damaged: the name of its backing file is not text.") from None
