"""Memory for one request, at an address that direct I/O and C accept."""

import ctypes
import mmap
from collections.abc import Iterator

from cloudmanager.transfer.extents import PIECE_BYTES, Extent, merged

ZERO_GRAIN_BYTES = 32 * 1024
"""Zeros within data are looked for in runs of this length."""

_libc = ctypes.CDLL(None)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.memcmp.restype = ctypes.c_int


class Buffer:
    """Page-aligned memory for one piece, on its way from a reader to a writer."""

    def __init__(self, size: int = PIECE_BYTES) -> None:
        self._memory = mmap.mmap(-1, size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.view = memoryview(self._memory)
        self.read = 0
        """The reader's name for the request that fills it."""
        self.writes = 0
        """Requests under way that still read from it."""


_ZEROS = Buffer()
zeros = _ZEROS.view.toreadonly()
"""A piece of nothing."""
zeros_address = _ZEROS.address


def is_zero(address: int, length: int) -> bool:
    """Whether `length` bytes at `address`, at most a piece, are all zero."""
    return bool(_libc.memcmp(address, _ZEROS.address, length) == 0)


def parts(buffer: Buffer, extent: Extent) -> Iterator[Extent]:
    """The extent whose bytes the buffer holds, cut where zeros begin and end."""
    grains = ((at, min(ZERO_GRAIN_BYTES, extent.length - at)) for at in range(0, extent.length, ZERO_GRAIN_BYTES))
    return merged(Extent(extent.offset + at, length, is_zero(buffer.address + at, length)) for at, length in grains)
