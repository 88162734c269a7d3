"""Ranges of an image that cannot be read: reported exactly, and skipped if requested."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cloudmanager.client.deploy.ends import Source
from cloudmanager.client.deploy.errors import UnreadableRange
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.extents import GRAIN_BYTES, Extent, merged, pieces
from cloudmanager.transfer.libnbd import Timeouts
from cloudmanager.transfer.reading import Reader


class BadRanges:
    """For threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: set[Extent] = set()

    def add(self, extents: Iterable[Extent]) -> None:
        with self._lock:
            self._found.update(piece for extent in extents for piece in pieces(extent, GRAIN_BYTES))

    def all(self) -> list[Extent]:
        """In order, neighbours as one."""
        with self._lock:
            return list(merged(sorted(self._found, key=lambda extent: extent.offset)))


@dataclass(frozen=True)
class CarefulSource:
    """A source of which a bad sector costs that sector only."""

    source: Source
    bad: BadRanges
    skips: bool
    """Zeros take the place of what cannot be read; otherwise that ends the deployment."""

    @property
    def size_bytes(self) -> int | None:
        return self.source.size_bytes

    @property
    def identity(self) -> str:
        return self.source.identity

    @property
    def detects_changes(self) -> bool:
        return self.source.detects_changes

    @property
    def readers(self) -> int:
        return self.source.readers

    @contextmanager
    def reader(self, timeouts: Timeouts) -> Iterator["CarefulReader"]:
        with self.source.reader(timeouts) as reader:
            yield CarefulReader(reader, self.bad, self.skips)

    def check_unchanged(self) -> None:
        self.source.check_unchanged()


class CarefulReader:
    """Reads a piece that failed again, in smaller and smaller parts. Raises UnreadableRange unless it may skip."""

    def __init__(self, reader: Reader, bad: BadRanges, skips: bool) -> None:
        self._reader = reader
        self._bad = bad
        self._skips = skips
        self._under_way: dict[int, tuple[Extent, UnreadableRange | None]] = {}
        self._part = Buffer()

    def extents(self, extent: Extent) -> list[Extent]:
        return self._reader.extents(extent)

    def begin(self, buffer: Buffer, piece: Extent) -> None:
        failure = None
        try:
            self._reader.begin(buffer, piece)
        except UnreadableRange as error:
            failure = error
        self._under_way[buffer.address] = piece, failure

    def finish(self, buffer: Buffer) -> None:
        piece, failure = self._under_way.pop(buffer.address)
        try:
            if failure is None:
                self._reader.finish(buffer)
        except UnreadableRange as error:
            failure = error
        if failure is not None:
            self._read_parts(buffer, piece, piece)

    def _read_parts(self, buffer: Buffer, piece: Extent, part: Extent) -> None:
        for half in _halves(part):
            try:
                self._reader.begin(self._part, half)
                self._reader.finish(self._part)
            except UnreadableRange as error:
                if half.length > GRAIN_BYTES:
                    self._read_parts(buffer, piece, half)
                    continue
                self._give_up(half, error)
                self._part.view[: half.length] = bytes(half.length)
            at = half.offset - piece.offset
            buffer.view[at : at + half.length] = self._part.view[: half.length]

    def _give_up(self, grain: Extent, error: UnreadableRange) -> None:
        if not self._skips:
            raise UnreadableRange(
                f"The image has a bad sector. {error.detail} With --skip-bad the deployment goes on around it.",
                offset=grain.offset,
                length=grain.length,
            ) from error
        self._bad.add([grain])


def _halves(part: Extent) -> list[Extent]:
    """On grains; one that is a grain is whole."""
    grains = -(-part.length // GRAIN_BYTES)
    if grains <= 1:
        return [part]
    middle = grains // 2 * GRAIN_BYTES
    return [Extent(part.offset, middle), Extent(part.offset + middle, part.length - middle)]
