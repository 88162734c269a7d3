"""Checksums of a disk, block by block, the same whichever ranges its server knows to be zero."""

import hashlib
from typing import TYPE_CHECKING

from cloudmanager.transfer.buffers import Buffer, is_zero, zeros
from cloudmanager.transfer.extents import PIECE_BYTES, Extent

if TYPE_CHECKING:
    from hashlib import _Hash

BLOCK_BYTES = PIECE_BYTES
DIGEST_BYTES = 16
"""Of SHA-256, which processors have instructions for; half its length cannot be forged either."""
_ZERO = bytes(DIGEST_BYTES)


class Digester:
    """Fed from the start of a block on, in order, with pieces that cross no border of blocks."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._hash: _Hash | None = None
        self._filled = 0

    def data(self, buffer: Buffer, length: int) -> None:
        if is_zero(buffer.address, length):
            self.zeros(length)
            return
        if self._hash is None:
            self._hash = hashlib.sha256(zeros[: self._filled])
        self._hash.update(buffer.view[:length])
        self._advance(length)

    def zeros(self, length: int) -> None:
        while length:
            count = min(length, BLOCK_BYTES - self._filled)
            if self._hash is not None:
                self._hash.update(zeros[:count])
            self._advance(count)
            length -= count

    def digests(self) -> bytes:
        """Of all blocks, one after the other; the last one may be short."""
        if self._filled:
            self._end_block()
        return bytes(self._digests)

    def _advance(self, length: int) -> None:
        self._filled += length
        if self._filled == BLOCK_BYTES:
            self._end_block()

    def _end_block(self) -> None:
        self._digests += _ZERO if self._hash is None else self._hash.digest()[:DIGEST_BYTES]
        self._hash, self._filled = None, 0


def first_difference(unit: Extent, one: bytes, other: bytes) -> Extent | None:
    """The blocks, from the first that differs to the last of the same run."""
    blocks = range(0, len(one), DIGEST_BYTES)
    differs = [one[at : at + DIGEST_BYTES] != other[at : at + DIGEST_BYTES] for at in blocks]
    if True not in differs:
        return None
    first = differs.index(True)
    after = differs.index(False, first) if False in differs[first:] else len(differs)
    offset = unit.offset + first * BLOCK_BYTES
    return Extent(offset, min(unit.offset + after * BLOCK_BYTES, unit.end) - offset)
