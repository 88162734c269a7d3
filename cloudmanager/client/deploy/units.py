"""The portions in which a disk is copied, and remembered as copied."""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from cloudmanager.transfer.extents import GRAIN_BYTES, Extent
from cloudmanager.transfer.reading import Reader

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
