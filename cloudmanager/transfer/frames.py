"""The content of a disk on its way to a service: frames, one after the other.

A frame is a header of 24 bytes, in network byte order, and a body. The header: the letters CMF1, the offset on the disk
(8 bytes), the length on the disk (4), the length of the body (4), the encoding (1: 0 as it is, 1 zstd), three zeros.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

MEDIA_TYPE = "application/octet-stream"
MOST_BYTES: Final = 1024 * 1024
"""That one frame stands for. No body is longer than what it stands for, either."""
_HEADER = struct.Struct(">4sQIIB3s")
_MAGIC = b"CMF1"
_RESERVED = bytes(3)


class Encoding(IntEnum):
    RAW = 0
    ZSTD = 1
    """One zstd frame (RFC 8878) that names its content size."""


@dataclass(frozen=True)
class Frame:
    """A range of the disk, and its bytes."""

    offset: int
    length: int
    encoding: Encoding
    body: bytes | memoryview

    @property
    def header(self) -> bytes:
        return _HEADER.pack(_MAGIC, self.offset, self.length, len(self.body), self.encoding, _RESERVED)

    def packed(self) -> bytes:
        return self.header + self.body


class BadFrame(ValueError):
    """What was received is no frame. The message says why."""


class Unpacker:
    """Makes frames of chunks that have their borders anywhere. Holds less than one frame and one chunk."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The frames that are complete now. Raises BadFrame, as soon as the header is there."""
        self._received += chunk
        while len(self._received) >= _HEADER.size:
            offset, length, body_bytes, encoding = self._header()
            end = _HEADER.size + body_bytes
            if len(self._received) < end:
                return
            body = bytes(memoryview(self._received)[_HEADER.size : end])
            del self._received[:end]
            yield Frame(offset, length, encoding, body)

    def end(self) -> None:
        """Raises BadFrame if something is missing."""
        if self._received:
            raise BadFrame("The last frame is cut off.")

    def _header(self) -> tuple[int, int, int, Encoding]:
        magic, offset, length, body_bytes, encoding, reserved = _HEADER.unpack_from(self._received)
        if magic != _MAGIC or reserved != _RESERVED:
            raise BadFrame("A frame does not begin like one.")
        if not 0 < length <= MOST_BYTES:
            raise BadFrame(f"A frame is about {length} bytes; from 1 to {MOST_BYTES} are possible.")
        if encoding not in Encoding.__members__.values():
            raise BadFrame(f"A frame has the encoding {encoding}, which is not known.")
        is_whole = body_bytes == length if encoding == Encoding.RAW else 0 < body_bytes <= length
        if not is_whole:
            raise BadFrame(f"A frame about {length} bytes cannot have a body of {body_bytes}.")
        return offset, length, body_bytes, Encoding(encoding)
