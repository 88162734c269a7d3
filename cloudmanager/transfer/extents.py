"""Ranges of a disk, and which of them read as zero."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

PIECE_BYTES = 256 * 1024
"""Of one request: larger ones were slower over TCP, smaller ones cost more processor time (docs/deploy.md)."""
GRAIN_BYTES = 4096
"""Borders between data and zeros are moved to multiples of it, so that every target accepts the requests."""


@dataclass(frozen=True)
class Extent:
    """A range of a disk."""

    offset: int
    length: int
    is_zero: bool = False

    @property
    def end(self) -> int:
        return self.offset + self.length

    def part(self, offset: int, end: int) -> "Extent":
        """What of it lies between; its length is 0 or less if nothing does."""
        start = max(self.offset, offset)
        return Extent(start, min(self.end, end) - start, self.is_zero)


def data(offset: int, length: int) -> list[Extent]:
    """One extent of which nothing more is known."""
    return [Extent(offset, length)]


def pieces(extent: Extent, size: int = PIECE_BYTES) -> Iterator[Extent]:
    """The extent cut at multiples of `size`."""
    offset = extent.offset
    while offset < extent.end:
        end = min(offset - offset % size + size, extent.end)
        yield Extent(offset, end - offset, extent.is_zero)
        offset = end


def merged(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Neighbours of the same kind as one."""
    current: Extent | None = None
    for extent in extents:
        if current is None:
            current = extent
        elif current.is_zero == extent.is_zero and current.end == extent.offset:
            current = Extent(current.offset, current.length + extent.length, current.is_zero)
        else:
            yield current
            current = extent
    if current is not None:
        yield current


def on_grains(extents: Iterable[Extent], offset: int, end: int) -> list[Extent]:
    """The same, from `offset` to `end`, with borders on grains: a grain that holds any data is data."""
    shrunk: list[Extent] = []
    position = offset
    for extent in extents:
        if not extent.is_zero:
            continue
        start = min(-(-extent.offset // GRAIN_BYTES) * GRAIN_BYTES, end)
        stop = end if extent.end >= end else extent.end // GRAIN_BYTES * GRAIN_BYTES
        if stop <= max(start, position):
            continue
        start = max(start, position)
        if start > position:
            shrunk.append(Extent(position, start - position))
        shrunk.append(Extent(start, stop - start, is_zero=True))
        position = stop
    if position < end:
        shrunk.append(Extent(position, end - position))
    return list(merged(shrunk))


class Zeros:
    """Ranges that are known to read as zero, to be looked up."""

    def __init__(self, extents: Iterable[Extent]) -> None:
        """In order."""
        self._zeros = [extent for extent in extents if extent.is_zero]

    def missing_in(self, wanted: Extent) -> Iterator[Extent]:
        """The parts of a range that none of them covers."""
        position = wanted.offset
        first = bisect_right(self._zeros, position, key=lambda zero: zero.end)
        for zero in islice(self._zeros, first, None):
            if zero.offset >= wanted.end:
                break
            if zero.offset > position:
                yield Extent(position, zero.offset - position, wanted.is_zero)
            position = zero.end
        if position < wanted.end:
            yield Extent(position, wanted.end - position, wanted.is_zero)
