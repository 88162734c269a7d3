"""The entries of a piece of a table, all compared at once.

A large image has millions of entries. To look at a million of them one by one takes Python a tenth of a second and
more, and a list of them many times the table's memory. Here a piece becomes one long integer with a lane of bits for
each entry, and what is asked of all entries is a few operations on it: half a gigabyte of tables a second.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal


class Entries:
    """Equally wide unsigned numbers. Flags are an integer too: the lowest bit of each lane where something holds."""

    def __init__(self, data: bytes, entry_bytes: int, order: Literal["little", "big"]) -> None:
        """What is left behind the last whole entry is ignored."""
        self._count = len(data) // entry_bytes
        self._entry_bytes = entry_bytes
        self._bits = entry_bytes * 8
        self._order = order
        self._data = data[: self._count * entry_bytes]
        self._lanes = int.from_bytes(self._data, order)
        self._ones = self._each(1)

    def field(self, first_bit: int, bits: int) -> int:
        """Part of each entry, in its lane."""
        return (self._lanes >> first_bit) & self._each((1 << bits) - 1)

    def flags(self, bit: int) -> int:
        """Where the bit is set."""
        return (self._lanes >> bit) & self._ones

    def but(self, flags: int) -> int:
        """Where they are not set."""
        return flags ^ self._ones

    def at_least(self, lanes: int, bound: int) -> int:
        """Where a lane's number is not below the bound.

        The highest bit of each lane is looked at by itself and set before the subtraction, so that no lane borrows
        from its neighbour.
        """
        if bound >= 1 << self._bits:
            return 0
        top = self._bits - 1
        high = (lanes >> top) & self._ones
        rest = bound if bound < 1 << top else bound - (1 << top)
        reaches = ((lanes | self._each(1 << top)) - self._each(rest) >> top) & self._ones
        return high | reaches if bound < 1 << top else high & reaches

    def chosen(self, flags: int) -> dict[int, int]:
        """The entries whose flag is set, by their number in the piece."""
        return dict(self._chosen(flags))

    def _chosen(self, flags: int) -> Iterator[tuple[int, int]]:
        marks = flags.to_bytes(len(self._data), self._order)
        offset_in_lane = 0 if self._order == "little" else self._entry_bytes - 1
        at = marks.find(1)
        while at >= 0:
            start = at - offset_in_lane
            entry = int.from_bytes(self._data[start : start + self._entry_bytes], self._order)
            yield start // self._entry_bytes, entry
            at = marks.find(1, at + 1)

    def _each(self, number: int) -> int:
        """The number in each lane."""
        return _repeated(number, self._count, self._entry_bytes)


@lru_cache(maxsize=16)
def _repeated(number: int, count: int, entry_bytes: int) -> int:
    return int.from_bytes(number.to_bytes(entry_bytes, "little") * count, "little")
