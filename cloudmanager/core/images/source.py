"""Positioned, bounded reads of an image."""

from typing import BinaryIO

from cloudmanager.core.errors import CorruptImage, DeviceError, ImageError

SECTOR = 512
MAX_TABLE_BYTES = 64 * 1024 * 1024
"""No honest image has a larger table in one piece; a damaged header may claim anything."""


class Source:
    """The bytes of an open file. Reads past the end are the image's fault, and said so."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises DeviceError if the file cannot be read."""
        self._file = file
        try:
            self.size = file.seek(0, 2)
        except OSError as error:
            raise _unreadable(error) from error

    def up_to(self, offset: int, length: int) -> bytes:
        """What there is of `length` bytes at `offset`."""
        if offset >= self.size:
            return b""
        try:
            self._file.seek(offset)
            return self._file.read(length)
        except OSError as error:
            raise _unreadable(error) from error

    def exactly(self, offset: int, length: int, what: str) -> bytes:
        """Raises CorruptImage, naming `what`, where the file is too short for it."""
        if length > MAX_TABLE_BYTES:
            raise CorruptImage(f"The image is damaged: its {what} claims {length} bytes.")
        data = self.up_to(offset, length)
        if len(data) < length:
            raise self.truncated(what)
        return data

    def truncated(self, what: str) -> ImageError:
        return CorruptImage(
            f"The image is truncated: its {what} would lie beyond the end of the file ({self.size} bytes). "
            "Copy it again from where it came."
        )


def round_up(value: int, unit: int = SECTOR) -> int:
    return -(-value // unit) * unit


def _unreadable(error: OSError) -> DeviceError:
    return DeviceError(f"The image cannot be read: {error.strerror}. Check the disk or file system that it is on.")
