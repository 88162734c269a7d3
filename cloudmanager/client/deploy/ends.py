"""The interfaces of a source and a target, as the copying uses them."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from cloudmanager.client.deploy.errors import TargetUnreadable, UnreadableRange
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.extents import GRAIN_BYTES, Extent
from cloudmanager.transfer.libnbd import Timeouts
from cloudmanager.transfer.reading import Reader


class Writer(Protocol):
    """One thread's access to a target."""

    def extents(self, extent: Extent) -> list[Extent]:
        """What the target holds now."""

    def begin(self, buffer: Buffer, at: int, piece: Extent) -> None:
        """Starts to write the piece, whose bytes are at `at` in the buffer; counts itself in `buffer.writes`."""

    def reclaim(self) -> Buffer:
        """Waits for a buffer whose writes are all done."""

    def settle(self) -> list[Buffer]:
        """Waits for all of them."""

    def zero(self, extent: Extent) -> None:
        """Makes a range read as zero, with holes where the target can."""

    def trim(self, extent: Extent) -> None:
        """Tells the target that a range is of no use, if it wants to know."""

    def flush(self) -> None:
        """What was written, here and by the other writers, survives a power cut."""


class Source(Protocol):
    """An image. Readers are made for each thread."""

    @property
    def size_bytes(self) -> int | None:
        """A multiple of 512. None: a stream."""

    @property
    def identity(self) -> str:
        """Changes when the content does, as far as can be known; empty when nothing is known."""

    @property
    def detects_changes(self) -> bool:
        """Whether a change would show, in the identity or in `check_unchanged`."""

    @property
    def readers(self) -> int:
        """As many may read beside each other."""

    def reader(self, timeouts: Timeouts) -> AbstractContextManager[Reader]: ...

    def check_unchanged(self) -> None:
        """Raises SourceChanged."""


class Target(Protocol):
    """Where the image goes."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def logical_sector_bytes(self) -> int | None:
        """None: not known, or there are none."""

    @property
    def likeness(self) -> str:
        """Distinguishes it, as far as possible, from another target of the same name."""

    @property
    def writers(self) -> int:
        """As many may write beside each other."""

    def reserve(self, size_bytes: int) -> None:
        """Makes room where that is possible. Raises TargetTooSmall."""

    def writer(self, timeouts: Timeouts) -> AbstractContextManager[Writer]: ...

    def reader(self, timeouts: Timeouts) -> AbstractContextManager[Reader]: ...


@contextmanager
def reading_back(target: Target) -> Iterator[None]:
    """What cannot be read there is the target's, and not the image's. Raises TargetUnreadable."""
    try:
        yield
    except UnreadableRange as error:
        raise TargetUnreadable(
            f"{target.name} has a bad sector. {error.detail} Deploy to another disk.",
            offset=error.offset,
            length=error.length,
        ) from error


UNIT_BYTES = 64 * 1024 * 1024
HEAD_BYTES = 1024 * 1024
"""Written last: a target whose deployment was cut short has no partition table, rather than half a system."""


@dataclass(frozen=True)
class Unit:
    """A portion."""

    index: int
    extent: Extent


class Supply(Protocol):
    """Hands out each unit once."""

    def take(self, reader: Reader) -> Unit | None:
        """The next one, for that reader to read. None: there are no more."""

    def put_back(self, units: Iterable[Unit]) -> None:
        """They may be lost on the target."""


class DiskSupply:
    """Units of an image that can be read anywhere, and again."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self._units = deque(units)

    def take(self, reader: Reader) -> Unit | None:
        del reader
        try:
            return self._units.popleft()
        except IndexError:
            return None

    def put_back(self, units: Iterable[Unit]) -> None:
        self._units.extend(units)


def covered(size_bytes: int, target_bytes: int) -> int:
    """How much of the target an image takes: rounded up, so that targets with large sectors accept the last write."""
    return max(min(-(-size_bytes // GRAIN_BYTES) * GRAIN_BYTES, target_bytes), size_bytes)


def units_of(length: int, unit_bytes: int = UNIT_BYTES) -> list[Unit]:
    return [
        Unit(index, Extent(offset, min(unit_bytes, length - offset)))
        for index, offset in enumerate(range(0, length, unit_bytes))
    ]


class Head:
    """The first MiB of the image, kept back."""

    def __init__(self) -> None:
        self._bytes = bytearray(HEAD_BYTES)
        self._lock = threading.Lock()
        self.length = 0

    def takes(self, piece: Extent) -> bool:
        return piece.offset < HEAD_BYTES

    def keep(self, view: memoryview, piece: Extent) -> None:
        with self._lock:
            self._bytes[piece.offset : piece.end] = view[: piece.length]
            self.length = max(self.length, piece.end)

    def part(self, piece: Extent) -> memoryview:
        return memoryview(self._bytes)[piece.offset : piece.end]
