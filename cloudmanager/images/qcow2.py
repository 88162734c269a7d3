"""QEMU's qcow2 (docs/interop/qcow2.txt in QEMU)."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cloudmanager.images import second_opinion
from cloudmanager.images.entries import Entries
from cloudmanager.images.errors import DamagedImage, UnreasonableImage, UnsafeImage, UnsupportedImage
from cloudmanager.images.source import TIME_LIMIT_SECONDS, ByteSource, Image, TimeIsUp, merged, round_up
from cloudmanager.linux.block import SECTOR_BYTES

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_BITMAPS = struct.Struct(">I4xQQ")
_BITMAP = struct.Struct(">QIIBBHI")
_BITMAPS_EXTENSION = 0x23852875
_OFFSET_MASK = 0x00FFFFFFFFFFFE00
_COMPRESSED_BIT = 62
_MAX_BACKING_NAME = 1023
_MAX_L1_BYTES = 32 * 1024 * 1024
_MAX_REFCOUNT_TABLE_BYTES = 8 * 1024 * 1024
_MAX_EXTENSIONS_BYTES = 64 * 1024
_MAX_SNAPSHOTS = 8192
"""QEMU allows eight times as many, and reads each with several requests when it opens an image: for 10 s."""
_MAX_BITMAPS_BYTES = 256 * 1024 * 1024
"""In QEMU's memory: it loads all persistent bitmaps when it opens an image."""
_MAX_ZSTD_WINDOW = 8 * 1024 * 1024
_CHECK_SECONDS = 0.25
"""For looking at what the reference counts vouch for too."""

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
    snapshots: int
    snapshots_offset: int
    features: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    length: int = _HEADER.size

    @classmethod
    def parse(cls, sector: bytes) -> "_Header":
        _magic, *fields = _HEADER.unpack_from(sector)
        header = cls(*fields)
        if header.version == 2:
            return header
        features, _compatible, autoclear, refcount_order, length = _HEADER_V3.unpack_from(sector, _HEADER.size)
        return replace(header, features=features, autoclear=autoclear, refcount_order=refcount_order, length=length)

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l2_entry_bytes(self) -> int:
        return 16 if self.features & _EXTENDED_L2 else 8


def read(source: ByteSource) -> Image:
    sector = source.exactly(0, SECTOR_BYTES, "header")
    header = _Header.parse(sector)
    _refuse_unsupported(header)
    _refuse_references(header, sector)
    _check_geometry(header)
    _check_snapshots(source, header)
    _check_bitmaps(source, header)
    _check_not_truncated(source, header)
    damaged = "QEMU marked the image as corrupt, so it is read-only until `qemu-img check -r all` repairs it."
    return Image(
        "qcow2",
        header.size_bytes // SECTOR_BYTES * SECTOR_BYTES,
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


def _check_snapshots(source: ByteSource, header: _Header) -> None:
    if header.snapshots > _MAX_SNAPSHOTS:
        raise UnreasonableImage(
            f"The image claims {header.snapshots} snapshots, more than are loaded here. Convert it with "
            "`qemu-img convert -O qcow2`, which leaves them out."
        )
    if header.snapshots and header.snapshots_offset >= source.size:
        raise source.truncated("snapshot table")


def _check_bitmaps(source: ByteSource, header: _Header) -> None:
    """Raises UnreasonableImage where QEMU would need more memory for them than it should have."""
    directory = next((data for kind, data in _extensions(source, header) if kind == _BITMAPS_EXTENSION), b"")
    if not header.autoclear & 1 or len(directory) < _BITMAPS.size:
        return
    count, length, offset = _BITMAPS.unpack_from(directory)
    entries = source.exactly(offset, length, "directory of bitmaps")
    at = total_bytes = 0
    for _ in range(count):
        if at + _BITMAP.size > len(entries):
            raise DamagedImage("The image is damaged: its directory of bitmaps is shorter than it says.")
        *_table, granularity_bits, name_bytes, extra_bytes = _BITMAP.unpack_from(entries, at)
        at += round_up(_BITMAP.size + name_bytes + extra_bytes, 8)
        total_bytes += (header.size_bytes >> granularity_bits) // 8
        if total_bytes > _MAX_BITMAPS_BYTES:
            raise UnreasonableImage(
                "The image's bitmaps are larger than any backup needs. Remove them with `qemu-img bitmap --remove`."
            )


def _extensions(source: ByteSource, header: _Header) -> Iterator[tuple[int, bytes]]:
    end = min(header.backing_offset or header.cluster_bytes, _MAX_EXTENSIONS_BYTES)
    data = source.up_to(0, end)
    at = header.length
    while at + _EXTENSION.size <= len(data):
        kind, length = _EXTENSION.unpack_from(data, at)
        at += _EXTENSION.size
        if not kind:
            return
        yield kind, data[at : at + length]
        at += round_up(length, 8)


def _check_not_truncated(source: ByteSource, header: _Header) -> None:
    """QEMU reads zeros where a truncated image ends, without an error: that must not pass as the disk's content.

    Every mapped cluster must be inside the file. Where there are too many to look at them all, the reference counts
    show at once how far the file should reach; but a count can also be left over from a crash, and while the image is
    dirty the counts say nothing.
    """
    is_counted_within = not header.features & _DIRTY and _last_counted_cluster(source, header) < source.size
    try:
        _check_mapped(source, header, _CHECK_SECONDS if is_counted_within else TIME_LIMIT_SECONDS)
    except TimeIsUp:
        if not is_counted_within:
            raise UnreasonableImage(
                "The image's tables are too large to be checked in time, and its reference counts do not say that it "
                "is whole. Run `qemu-img check -r all` on it, or convert it with larger clusters."
            ) from None


def _check_mapped(source: ByteSource, header: _Header, seconds: float) -> None:
    """Raises TimeIsUp."""
    l1_end = header.l1_offset + header.l1_entries * 8
    if l1_end > source.size:
        raise source.truncated("first-level table")
    last_compressed = 0
    for piece in source.pieces([(header.l1_offset, l1_end)], seconds):
        tables = _l2_tables(piece.data)
        if tables and tables[-1] + header.cluster_bytes > source.size:
            raise source.truncated("second-level table")
        for l2_piece in source.pieces(merged(tables, header.cluster_bytes), seconds):
            if _leads_beyond_the_end(l2_piece.data, header, source.size):
                raise source.truncated("data")
            last_compressed = max(last_compressed, _in_last_sector(l2_piece.data, header, source.size))
    if last_compressed and not _is_whole(source, header, last_compressed):
        raise source.truncated("data")


def _l2_tables(l1_piece: bytes) -> list[int]:
    """Where they start, in rising order; QEMU writes them, and clusters of data, whole."""
    return sorted({entry & _OFFSET_MASK for (entry,) in struct.iter_unpack(">Q", l1_piece)} - {0})


def _leads_beyond_the_end(l2_piece: bytes, header: _Header, size: int) -> bool:
    entries = Entries(l2_piece, header.l2_entry_bytes, "big")
    base = header.l2_entry_bytes * 8 - 64
    """An extended entry has a bitmap of its subclusters behind the same number."""
    compressed = entries.flags(base + _COMPRESSED_BIT)
    last_start = max(0, size - header.cluster_bytes)
    beyond = entries.at_least(entries.field(base + 9, 47), last_start // SECTOR_BYTES + 1) & entries.but(compressed)
    if header.features & _EXTENDED_L2:
        if any(_end_of_subclusters(entry, header) > size for entry in entries.chosen(beyond).values()):
            return True
    elif beyond & (entries.but(entries.flags(0)) if header.version >= 3 else beyond):
        return True
    return bool(compressed and compressed & _compressed_beyond(entries, base, header, size))


def _compressed_beyond(entries: Entries, base: int, header: _Header, size: int) -> int:
    """Where the compressed data, if that is what the entry is of, ends behind the file's last sector.

    The number of its sectors is in the highest bits, as many as a cluster of data may need.
    """
    length_bits = header.cluster_bits - 8
    first = entries.field(base + 9, 53 - length_bits)
    further = entries.field(base + 62 - length_bits, length_bits)
    return entries.at_least(first + further, round_up(size) // SECTOR_BYTES)


def _in_last_sector(l2_piece: bytes, header: _Header, size: int) -> int:
    """Where the last compressed cluster starts that ends in the file's last sector, if the file ends inside it; or 0.

    An entry counts sectors, and the file need not have all of the last one.
    """
    if not size % SECTOR_BYTES:
        return 0
    entries = Entries(l2_piece, header.l2_entry_bytes, "big")
    base = header.l2_entry_bytes * 8 - 64
    compressed = entries.flags(base + _COMPRESSED_BIT)
    length_bits = header.cluster_bits - 8
    last = compressed and compressed & _compressed_beyond(entries, base, header, size - SECTOR_BYTES)
    offsets = ((entry >> base) & ((1 << 62 - length_bits) - 1) for entry in entries.chosen(last).values())
    return max(offsets, default=0)


def _is_whole(source: ByteSource, header: _Header, offset: int) -> bool:
    """Whether the compressed data that starts there is all there: whether a cluster comes out of it."""
    data = source.up_to(offset, header.cluster_bytes)
    try:
        if header.features & _COMPRESSION:
            import zstandard  # noqa: PLC0415 - an extra of clients

            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
            plain = decompressor.stream_reader(data).read(header.cluster_bytes)
        else:
            plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, header.cluster_bytes)
    except ModuleNotFoundError:
        return True
    except Exception:  # zlib's and zstandard's own: damaged, whatever its length
        return False
    return len(plain) >= header.cluster_bytes


def _end_of_subclusters(entry: int, header: _Header) -> int:
    """Where the last one ends that has data."""
    allocated = entry & 0xFFFFFFFF
    return (entry >> 64 & _OFFSET_MASK) + allocated.bit_length() * header.cluster_bytes // 32 if allocated else 0


def _last_counted_cluster(source: ByteSource, header: _Header) -> int:
    """Where the last cluster starts that has a reference count."""
    table_bytes = header.refcount_clusters * header.cluster_bytes
    table = source.exactly(header.refcount_offset, table_bytes, "reference count table").rstrip(b"\0")
    if not table:
        return 0
    last = (len(table) - 1) // 8
    (block,) = struct.unpack(">Q", table[last * 8 :].ljust(8, b"\0"))
    counts = source.exactly(block & ~511, header.cluster_bytes, "reference counts").rstrip(b"\0")
    last_bit = (len(counts) - 1) * 8 + counts[-1].bit_length() - 1 if counts else 0
    bits_before = last * header.cluster_bytes * 8
    return (bits_before + last_bit) >> header.refcount_order << header.cluster_bits


def _backing(source: ByteSource, header: _Header) -> str | None:
    if not header.backing_offset:
        return None
    if not 0 < header.backing_length <= _MAX_BACKING_NAME:
        raise DamagedImage("The image is damaged: the name of its backing file has an impossible length.")
    name = source.exactly(header.backing_offset, header.backing_length, "backing file name")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise DamagedImage("The image is damaged: the name of its backing file is not text.") from None
