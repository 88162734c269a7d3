"""Apple's disk image (UDIF), known by the trailer that `hdiutil` writes behind the data."""

import struct

from cloudmanager.images.errors import UnsupportedImage
from cloudmanager.images.image import Image
from cloudmanager.images.source import SECTOR, Source

MAGIC = b"koly"
_VERSION = 4
_TRAILER = struct.Struct(">4sII12xQQQQII")
_XML_OFFSET = 216
_SECTORS_OFFSET = 492


def from_trailer(source: Source, trailer: bytes) -> Image | None:
    """None where the last sector is only a raw disk's. Raises UnsupportedImage for one segment of several."""
    if not trailer.startswith(MAGIC):
        return None
    _magic, version, length, data_at, data_bytes, fork_at, fork_bytes, _segment, segments = _TRAILER.unpack_from(
        trailer
    )
    xml_at, xml_bytes = struct.unpack_from(">QQ", trailer, _XML_OFFSET)
    (sectors,) = struct.unpack_from(">Q", trailer, _SECTORS_OFFSET)
    inside = max(data_at + data_bytes, fork_at + fork_bytes, xml_at + xml_bytes) <= source.size - SECTOR
    if version != _VERSION or length != SECTOR or not inside or not (fork_bytes or xml_bytes) or sectors >= 1 << 54:
        return None
    if segments > 1:
        raise UnsupportedImage("The image is one of several segments. Join them with `hdiutil convert` on a Mac.")
    return Image("dmg", sectors * SECTOR, read_only_because="QEMU only reads dmg.")
