"""An image behind an http or https URL as a source: of ranges, or as a stream."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from cloudmanager.client.deploy.web_server import Body, Resource, WebServer
from cloudmanager.linux.block import SECTOR_BYTES, whole_sectors
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.extents import Extent
from cloudmanager.transfer.libnbd import Timeouts

_READERS = 8
_CHUNK_BYTES = 256 * 1024


def is_url(text: str) -> bool:
    return urlsplit(text).scheme in ("http", "https") if "://" in text else False


@dataclass(frozen=True)
class WebImage:
    """What was found at a URL."""

    server: WebServer
    resource: Resource

    @property
    def identity(self) -> str:
        """Without the query: a signature that is made anew is for the same image."""
        resource = self.resource
        return f"{self.server.name} {resource.length} {resource.version}" if resource.version else ""

    def check_unchanged(self) -> None:
        self.server.check_unchanged(self.resource)

    def last_sector(self) -> bytes:
        """Where there are ranges."""
        length = self.resource.length or 0
        start = max(0, length - SECTOR_BYTES)
        last = bytearray(length - start)
        Body(self.server, self.resource, start).fill(memoryview(last))
        return bytes(last)


@dataclass
class WebFile:
    """Its bytes at any place, a request for each that are not among the first. Where there are ranges."""

    image: WebImage
    length: int
    _position: int = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = self.length if whence == os.SEEK_END else offset
        return self._position

    def fetch(self, offset: int, length: int) -> bytes:
        """Raises SourceError."""
        self.seek(offset)
        return self.read(length)

    def read(self, length: int) -> bytes:
        """Raises SourceError."""
        start, end = self._position, min(self._position + length, self.length)
        if end <= len(self.image.resource.head):
            return self.image.resource.head[start:end]
        found = bytearray(max(0, end - start))
        Body(self.image.server, self.image.resource, start, end).fill(memoryview(found))
        return bytes(found)


@dataclass(frozen=True)
class WebSource:
    """A raw image, read by ranges: a request for each unit, whose answer is read as it comes."""

    image: WebImage
    length: int
    readers: int = _READERS
    detects_changes: bool = True

    @property
    def size_bytes(self) -> int:
        return whole_sectors(self.length)

    @property
    def identity(self) -> str:
        return self.image.identity

    @contextmanager
    def reader(self, timeouts: Timeouts) -> Iterator["WebReader"]:
        del timeouts  # the server's own is used
        reader = WebReader(self.image, self.length)
        try:
            yield reader
        finally:
            reader.close()

    def check_unchanged(self) -> None:
        self.image.check_unchanged()


class WebReader:
    """One thread's. Raises SourceError."""

    def __init__(self, image: WebImage, length: int) -> None:
        self._image = image
        self._length = length
        self._expected = Extent(0, 0)
        self._body: Body | None = None

    def extents(self, extent: Extent) -> list[Extent]:
        """Zeros are found when the pieces are looked at. What is asked about is what will be read."""
        self._expected = extent
        return [extent]

    def begin(self, buffer: Buffer, piece: Extent) -> None:
        wanted = max(0, min(piece.length, self._length - piece.offset))
        count = self._body_at(piece).fill(buffer.view[:wanted]) if wanted else 0
        buffer.view[count : piece.length] = bytes(piece.length - count)

    def finish(self, buffer: Buffer) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        if self._body is not None:
            self._body.close()

    def _body_at(self, piece: Extent) -> Body:
        if self._body is None or self._body.position != piece.offset:
            self.close()
            expected = self._expected
            end = expected.end if expected.offset <= piece.offset < expected.end else piece.end
            self._body = Body(self._image.server, self._image.resource, piece.offset, min(end, self._length))
        return self._body


class Received:
    """All of it, in chunks, counted."""

    def __init__(self, image: WebImage) -> None:
        self._body = Body(image.server, image.resource)
        self._length = image.resource.length

    def __iter__(self) -> Iterator[bytes]:
        view = memoryview(bytearray(_CHUNK_BYTES))
        try:
            while count := self._body.fill(view):
                yield bytes(view[:count])
        finally:
            self._body.close()

    def fraction(self) -> float | None:
        return self._body.position / self._length if self._length else None
