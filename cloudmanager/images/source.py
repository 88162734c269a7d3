"""Positioned, bounded reads of an image."""

import errno
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import BinaryIO, TypeAlias

from cloudmanager.images.errors import TruncatedImage, UnreadableImage, UnreasonableImage
from cloudmanager.linux.block import SECTOR_BYTES

MAX_TABLE_BYTES = 64 * 1024 * 1024
"""No honest image has a larger table in one piece; a damaged header may claim anything."""
PIECE_BYTES = 256 * 1024
"""Of a table in memory at once. What is done with one keeps other threads waiting for a millisecond or two."""
TIME_LIMIT_SECONDS = 5.0
"""For a whole inspection."""

ImageFile: TypeAlias = "BinaryIO | int"
"""A seekable binary file, or the descriptor of one."""


@dataclass(frozen=True)
class Piece:
    """Of a table."""

    offset: int
    """In the file."""
    data: bytes


class TimeIsUp(Exception):
    """Not all was looked at."""


class ByteSource:
    """The bytes of an open file. Reads past the end are faults of the image. Moves the file's position."""

    def __init__(self, file: ImageFile, *, has_tables: bool = True) -> None:
        """Without tables `pieces` finds nothing. Raises UnreadableImage."""
        self.has_tables = has_tables
        self._file = _Descriptor(file) if isinstance(file, int) else _file(file)
        self._began = monotonic()
        try:
            self.size = self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise _unreadable(error) from error

    def up_to(self, offset: int, length: int) -> bytes:
        """What there is of `length` bytes at `offset`."""
        if offset >= self.size:
            return b""
        try:
            return self._file.read_at(offset, min(length, self.size - offset))
        except OSError as error:
            raise _unreadable(error) from error

    def exactly(self, offset: int, length: int, what: str) -> bytes:
        """Raises DamagedImage, naming `what`, where the file is too short for it."""
        self.check_table(length, what)
        data = self.up_to(offset, length)
        if len(data) < length:
            raise self.truncated(what)
        return data

    def check_table(self, length: int, what: str, largest: int = MAX_TABLE_BYTES) -> None:
        """Raises UnreasonableImage for a length that no real image has."""
        if length > largest:
            raise UnreasonableImage(
                f"The image's {what} claims {length} bytes, more than that of any real disk. It is damaged, or made to "
                "exhaust its reader."
            )

    def pieces(self, ranges: Iterable[tuple[int, int]], seconds: float = TIME_LIMIT_SECONDS) -> Iterator[Piece]:
        """The data in ranges (start, end), a bounded piece at a time, without what the file system knows to be holes.

        A piece begins a multiple of 16 bytes, a whole entry, behind the start of its range. Raises TimeIsUp when so
        much time has passed since the inspection began.
        """
        for start, end in ranges if self.has_tables else ():
            at = start
            while at < end:
                if monotonic() - self._began > seconds:
                    raise TimeIsUp
                at += max(0, self._file.next_data(at) - at) // 16 * 16
                if at < end and (data := self.up_to(at, min(PIECE_BYTES, end - at))):
                    yield Piece(at, data)
                at += PIECE_BYTES

    def table(self, offset: int, length: int, what: str) -> Iterator[Piece]:
        """As `pieces`, of one table that a reader has in memory. Raises UnreasonableImage, DamagedImage."""
        self.check_table(length, what)
        if offset + length > self.size:
            raise self.truncated(what)
        return self.pieces([(offset, offset + length)])

    def truncated(self, what: str) -> TruncatedImage:
        return TruncatedImage(
            f"The image is truncated: its {what} would lie beyond the end of the file ({self.size} bytes). "
            "Copy it again from where it came."
        )


class _Descriptor:
    """Read without a position of its own, so that others may use the descriptor too."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def seek(self, offset: int, whence: int) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def read_at(self, offset: int, length: int) -> bytes:
        parts = []
        while length and (part := os.pread(self._descriptor, length, offset)):
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def next_data(self, offset: int) -> int:
        """Where the next bytes are that are no hole; far away where there are none."""
        try:
            return os.lseek(self._descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            return 1 << 62 if error.errno == errno.ENXIO else offset


class _Seekable:
    """A file that is not the system's: in memory, or behind something else."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek

    def read_at(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def next_data(self, offset: int) -> int:
        return offset


def _file(file: BinaryIO) -> _Descriptor | _Seekable:
    try:
        return _Descriptor(file.fileno())
    except (AttributeError, io.UnsupportedOperation):
        return _Seekable(file)


def merged(starts: Iterable[int], length: int) -> Iterator[tuple[int, int]]:
    """The ranges (start, end) that tables of one length cover, given where they start in rising order."""
    first = last = -1
    for start in starts:
        if start > last:
            if last > 0:
                yield first, last
            first = start
        last = start + length
    if last > 0:
        yield first, last


def round_up(value: int, unit: int = SECTOR_BYTES) -> int:
    return -(-value // unit) * unit


def _unreadable(error: OSError) -> UnreadableImage:
    return UnreadableImage(f"The image cannot be read: {error.strerror}. Check the disk or file system that it is on.")


@dataclass(frozen=True)
class Image:
    """An image file, as QEMU's driver of that format will present it."""

    format: str
    """QEMU's name of the driver: raw, qcow2, vmdk, vdi, vpc, vhdx, parallels, dmg."""
    size_bytes: int
    """Virtual size: what a client sees. A multiple of 512, as QEMU's block layer has it."""
    backing: str | None = None
    """The file that it reads through, as the image names it: nothing of it was checked."""
    read_only_because: str = ""
    """Why QEMU cannot write to it, as a sentence; empty where it can."""
    driver_options: Mapping[str, str] = field(default_factory=dict)
    """Block options with which QEMU's driver reads the image as it was read here."""
    logical_sector_bytes: int | None = None
    """What the image says of its sectors (VHDX does); None where its format does not say."""
