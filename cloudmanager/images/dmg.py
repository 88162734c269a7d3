"""Apple's disk image (UDIF), known by the trailer that `hdiutil` writes behind the data (block/dmg.c in QEMU)."""

import binascii
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cloudmanager.images.errors import DamagedImage, UnsupportedImage
from cloudmanager.images.source import ByteSource, Image
from cloudmanager.linux.block import SECTOR_BYTES

MAGIC = b"koly"
_VERSION = 4
_TRAILER = struct.Struct(">4sII12xQQQQII")
_XML_OFFSET = 216
_SECTORS_OFFSET = 492
_MAX_LIST_BYTES = 16 * 1024 * 1024
"""Of the list of chunks; QEMU reads no larger property list."""
_BLOCK = struct.Struct(">4s20xQ")
_CHUNKS_OFFSET = 204
_CHUNK = struct.Struct(">I12xQQQ")
_MAX_CHUNK_BYTES = 64 * 1024 * 1024
"""Packed and unpacked, in QEMU's memory."""
_WITHOUT_DATA = (0, 2, 0x7FFFFFFE, 0xFFFFFFFF)
"""Zeros, what may be anything, comments, the end of the list."""
_READ_BY_QEMU = (1, 0x80000005, 0x80000006, 0x80000007)
"""Plain, zlib, bzip2, lzfse."""


@dataclass(frozen=True)
class _Trailer:
    data_offset: int
    fork_offset: int
    fork_bytes: int
    xml_offset: int
    xml_bytes: int
    sectors: int
    segments: int


def from_trailer(source: ByteSource, trailer: bytes) -> Image | None:
    """None where the last sector is only a raw disk's. Raises UnsupportedImage, DamagedImage."""
    parsed = _parsed(trailer, source.size - SECTOR_BYTES)
    if parsed is None:
        return None
    if parsed.segments > 1:
        raise UnsupportedImage("The image is one of several segments. Join them with `hdiutil convert` on a Mac.")
    if source.has_tables:
        _check_chunks(source, parsed)
    return Image("dmg", parsed.sectors * SECTOR_BYTES, read_only_because="QEMU only reads dmg.")


def _parsed(trailer: bytes, end: int) -> _Trailer | None:
    if not trailer.startswith(MAGIC):
        return None
    _magic, version, length, data_at, data_bytes, fork_at, fork_bytes, _segment, segments = _TRAILER.unpack_from(
        trailer
    )
    xml_at, xml_bytes = struct.unpack_from(">QQ", trailer, _XML_OFFSET)
    (sectors,) = struct.unpack_from(">Q", trailer, _SECTORS_OFFSET)
    inside = max(data_at + data_bytes, fork_at + fork_bytes, xml_at + xml_bytes) <= end
    if (
        version != _VERSION
        or length != SECTOR_BYTES
        or not inside
        or not (fork_bytes or xml_bytes)
        or sectors >= 1 << 54
    ):
        return None
    return _Trailer(data_at, fork_at, fork_bytes, xml_at, xml_bytes, sectors, segments)


def _check_chunks(source: ByteSource, trailer: _Trailer) -> None:
    """That all are inside the file, and such as QEMU reads."""
    end = source.size - SECTOR_BYTES
    for block in _blocks(source, trailer):
        magic, block_offset = _BLOCK.unpack_from(block.ljust(_BLOCK.size, b"\0"))
        if magic != b"mish" or len(block) < _CHUNKS_OFFSET + _CHUNK.size:
            continue
        start = trailer.data_offset + block_offset
        whole = (len(block) - _CHUNKS_OFFSET) // _CHUNK.size * _CHUNK.size
        for kind, sectors, offset, length in _CHUNK.iter_unpack(block[_CHUNKS_OFFSET : _CHUNKS_OFFSET + whole]):
            if kind in _WITHOUT_DATA:
                continue
            if kind not in _READ_BY_QEMU:
                raise UnsupportedImage(
                    f"The image has chunks of the kind {kind:#x} (ADC or LZMA, say), which QEMU does not read. Convert "
                    "it with `hdiutil convert -format UDZO` on a Mac."
                )
            if start + offset + length > end:
                raise source.truncated("data")
            if max(length, sectors * SECTOR_BYTES) > _MAX_CHUNK_BYTES:
                raise DamagedImage(f"The image is damaged: a chunk claims {max(length, sectors * SECTOR_BYTES)} bytes.")


def _blocks(source: ByteSource, trailer: _Trailer) -> Iterator[bytes]:
    """Descriptions of parts of the disk, each with its list of chunks: from the resource fork, if there is one."""
    if trailer.fork_bytes:
        source.check_table(trailer.fork_bytes, "resource fork", _MAX_LIST_BYTES)
        yield from _resources(source.exactly(trailer.fork_offset, trailer.fork_bytes, "resource fork"))
        return
    source.check_table(trailer.xml_bytes, "property list", _MAX_LIST_BYTES)
    properties = source.exactly(trailer.xml_offset, trailer.xml_bytes, "property list")
    at = 0
    while (begin := properties.find(b"<data>", at)) >= 0:
        at = properties.find(b"</data>", begin)
        if at < 0:
            raise DamagedImage("The image is damaged: its property list is cut off.")
        try:
            yield binascii.a2b_base64(properties[begin + len(b"<data>") : at])
        except binascii.Error:
            raise DamagedImage("The image is damaged: its property list is not base64 where it should be.") from None


def _resources(fork: bytes) -> Iterator[bytes]:
    """Each is preceded by its length."""
    at, _map, length = struct.unpack_from(">III", fork.ljust(12, b"\0"))
    end = at + length
    if end > len(fork):
        raise DamagedImage("The image is damaged: its resource fork is cut off.")
    while at + 4 <= end:
        (count,) = struct.unpack_from(">I", fork, at)
        if not 0 < count <= end - at:
            raise DamagedImage("The image is damaged: a resource is longer than its fork.")
        yield fork[at + 4 : at + 4 + count]
        at += 4 + count
