"""Whether a compressed file is all there, by its structure: nothing is decompressed, and little of it is read.

xz, bzip2 and lzip have a mark at their end. zstd, lz4 and lzop give the length of each block, and so the place of the
next one. gzip, compress and lzma have neither: only decompressing all of it shows that the end is missing.

What is not understood here, or takes too long, is left to the program that decompresses it.
"""

import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from cloudmanager.client.deploy.errors import DamagedSource

Fetch: TypeAlias = Callable[[int, int], bytes]
"""Of an offset and a length: the bytes there, fewer only at the end of the file."""
LONGEST_SECONDS = 5.0
"""For the blocks of a large file on a slow disk."""
_TAIL_BYTES = 1024 * 1024
"""bzip2 and lzip allow anything behind their end. One stream of pbzip2 is shorter."""
_WEB_TAIL_BYTES = 64 * 1024
_LONGEST_INDEX_BYTES = 16 * 1024 * 1024
_LZIP_SHORTEST_BYTES = 26
"""A header and a trailer."""


class _CutOff(Exception):
    """The file ends before it is complete."""


class _Unknown(Exception):
    """It may be complete or not."""


def refuse_incomplete(name: str, fetch: Fetch, length: int) -> None:
    """`name` is the compression's, as `cloudmanager.images` calls it. Raises DamagedSource."""
    if by_end := _BY_END.get(name):
        _judged(name, lambda: by_end(fetch, length, _TAIL_BYTES))
    elif by_blocks := _BY_BLOCKS.get(name):
        _judged(name, lambda: by_blocks(_Walk(fetch, length)))


def refuse_without_end(name: str, fetch: Fetch, length: int) -> None:
    """As `refuse_incomplete`, with a few reads at the end at most: each may be a request. Raises DamagedSource."""
    if by_end := _BY_END.get(name):
        _judged(name, lambda: by_end(fetch, length, _WEB_TAIL_BYTES))


def _judged(name: str, judge: Callable[[], None]) -> None:
    try:
        judge()
    except _CutOff as why:
        raise DamagedSource(f"The {name} file is cut off: {why}. Copy it again from where it came.") from why
    except _Unknown:
        pass


# By what is at the end


def _xz(fetch: Fetch, length: int, tail_bytes: int) -> None:
    """Each stream has an index at its end, which gives the length of what is before (The .xz File Format, 1.0.4, 2.1).

    The streams before the last one are looked at where a read costs little.
    """
    end = _without_padding(fetch, length, tail_bytes)
    deadline = time.monotonic() + LONGEST_SECONDS
    while end := _without_padding(fetch, _xz_start(fetch, end), tail_bytes):
        if tail_bytes < _TAIL_BYTES or time.monotonic() > deadline:
            return


def _without_padding(fetch: Fetch, end: int, tail_bytes: int) -> int:
    """A stream of xz may be followed by zeros."""
    tail = fetch(max(0, end - tail_bytes), min(end, tail_bytes))
    padding = (len(tail) - len(tail.rstrip(b"\0"))) // 4 * 4
    if tail and padding == len(tail):
        raise _Unknown
    return end - padding


def _xz_start(fetch: Fetch, end: int) -> int:
    """Where the stream begins whose footer ends there."""
    footer = fetch(end - 12, 12) if end >= 12 else b""
    if footer[10:] != b"YZ" or zlib.crc32(footer[4:10]) != int.from_bytes(footer[:4], "little"):
        raise _CutOff("it has no footer at its end")
    index_bytes = 4 * (int.from_bytes(footer[4:8], "little") + 1)
    if index_bytes > _LONGEST_INDEX_BYTES:
        raise _Unknown
    index = fetch(end - 12 - index_bytes, index_bytes) if index_bytes <= end - 12 else b""
    if index[:1] != b"\0" or zlib.crc32(index[:-4]) != int.from_bytes(index[-4:], "little"):
        raise _CutOff("it has no index before its footer")
    start = end - 12 - index_bytes - sum(_block_lengths(index)) - 12
    if start < 0 or fetch(start, 6) != b"\xfd7zXZ\0":
        raise _CutOff("its index is of a longer or another file")
    return start


def _block_lengths(index: bytes) -> Iterator[int]:
    """With their padding."""
    numbers = _xz_numbers(index[1:-4])
    for _ in range(next(numbers, 0)):
        unpadded, _uncompressed = next(numbers, 0), next(numbers, 0)
        yield -(-unpadded // 4) * 4


def _xz_numbers(encoded: bytes) -> Iterator[int]:
    """Seven bits in each byte, the lowest first (1.2)."""
    number = shift = 0
    for byte in encoded:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0


_BZIP2_END = 0x177245385090
"""The square root of pi, before the checksum of the stream. It may begin at any bit."""


def _bzip2(fetch: Fetch, length: int, tail_bytes: int) -> None:
    tail = _tail(fetch, length, tail_bytes)
    behind = min(_bits_behind(tail, _BZIP2_END.to_bytes(6)), default=None)
    if behind is None or behind < 32:
        raise _CutOff("it has no mark of its end")
    _refuse_another(tail[len(tail) - (behind - 32) // 8 :], b"BZh")


def _bits_behind(tail: bytes, mark: bytes) -> Iterator[int]:
    """How many bits follow the last place of the mark, for each place that it may have in a byte."""
    bits = int.from_bytes(tail)
    for shift in range(8):
        at = (bits >> shift).to_bytes(len(tail)).rfind(mark)
        if at >= 0:
            yield 8 * (len(tail) - at - len(mark)) + shift


def _lzip(fetch: Fetch, length: int, tail_bytes: int) -> None:
    """The last eight bytes of a member are its length (lzip manual, File format): less than 1 TiB, so it has zeros."""
    tail = _tail(fetch, length, min(tail_bytes, _WEB_TAIL_BYTES))
    before, end = length - len(tail), len(tail)
    while (at := tail.rfind(b"\0\0\0", 0, end)) >= 5:
        end = at + 3
        member = int.from_bytes(tail[end - 8 : end], "little")
        start = before + end - member
        if member >= _LZIP_SHORTEST_BYTES and start >= 0 and fetch(start, 4) == b"LZIP":
            return _refuse_another(tail[end:], b"LZIP")
        end -= 1
    raise _CutOff("it has no trailer at its end")


def _tail(fetch: Fetch, length: int, tail_bytes: int) -> bytes:
    tail = fetch(max(0, length - tail_bytes), min(length, tail_bytes))
    if not tail.strip(b"\0"):
        raise _Unknown  # padding, of any length
    return tail


def _refuse_another(behind: bytes, mark: bytes) -> None:
    """Another stream has begun there, which has no end. Other bytes are ignored by those who decompress it."""
    if behind and behind[: len(mark)] == mark[: len(behind)]:
        raise _CutOff("its last stream has no end")


# By the lengths of its blocks


@dataclass
class _Walk:
    """From one block's header to the next one's."""

    fetch: Fetch
    length: int
    at: int = 0
    deadline: float = field(default_factory=lambda: time.monotonic() + LONGEST_SECONDS)

    @property
    def is_at_end(self) -> bool:
        return self.at == self.length

    def take(self, count: int) -> bytes:
        taken = self.fetch(self.at, count)
        self.skip(count)
        return taken

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > self.length:
            raise _CutOff(f"a block would reach {self.at - self.length} bytes past its end")
        if time.monotonic() > self.deadline:
            raise _Unknown

    def little(self, count: int = 4) -> int:
        return int.from_bytes(self.take(count), "little")

    def big(self, count: int = 4) -> int:
        return int.from_bytes(self.take(count))


_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_ZSTD = 0xFD2FB528
_LZ4 = 0x184D2204
_LZ4_LEGACY = 0x184C2102


def _zstd(walk: _Walk) -> None:
    _frames(walk, {_ZSTD: _zstd_frame})


def _lz4(walk: _Walk) -> None:
    _frames(walk, {_LZ4: _lz4_frame, _LZ4_LEGACY: _lz4_legacy_frame})


def _frames(walk: _Walk, kinds: dict[int, Callable[[_Walk], None]]) -> None:
    while not walk.is_at_end:
        magic = walk.little()
        if magic in _SKIPPABLE:
            walk.skip(walk.little())
        elif magic in kinds:
            kinds[magic](walk)
        else:
            raise _Unknown


def _zstd_frame(walk: _Walk) -> None:
    """RFC 8878, 3.1.1."""
    descriptor = walk.little(1)
    is_single_segment = bool(descriptor & 0x20)
    dictionary_bytes = (0, 1, 2, 4)[descriptor & 3]
    size_bytes = (int(is_single_segment), 2, 4, 8)[descriptor >> 6]
    walk.skip((not is_single_segment) + dictionary_bytes + size_bytes)
    is_last = False
    while not is_last:
        header = walk.little(3)
        is_last, kind = bool(header & 1), header >> 1 & 3
        if kind == 3:
            raise _Unknown
        walk.skip(1 if kind == 1 else header >> 3)
    walk.skip(4 if descriptor & 4 else 0)


def _lz4_frame(walk: _Walk) -> None:
    """LZ4 Frame Format, 1.6.4."""
    flags, _block_size = walk.take(2)
    walk.skip((8 if flags & 8 else 0) + (4 if flags & 1 else 0) + 1)
    while size := walk.little():
        walk.skip((size & 0x7FFFFFFF) + (4 if flags & 16 else 0))
    walk.skip(4 if flags & 4 else 0)


def _lz4_legacy_frame(walk: _Walk) -> None:
    """It has no end mark: the next frame's magic is larger than any block."""
    while not walk.is_at_end:
        size = walk.little()
        if size > 1 << 24:
            walk.at -= 4
            return
        walk.skip(size)


_LZOP = b"\x89LZO\0\r\n\x1a\n"


def _lzop(walk: _Walk) -> None:
    """As lzop 1.04 writes it (src/lzop.c, write_header and lzo_compress)."""
    while not walk.is_at_end:
        if walk.take(len(_LZOP)) != _LZOP:
            raise _Unknown
        flags = _lzop_header(walk)
        for_all = 4 * bool(flags & 0x001) + 4 * bool(flags & 0x100)
        for_compressed = 4 * bool(flags & 0x002) + 4 * bool(flags & 0x200)
        while plain := walk.big():
            packed = walk.big()
            walk.skip(for_all + (for_compressed if packed < plain else 0) + packed)


def _lzop_header(walk: _Walk) -> int:
    """Its flags. What is before them depends on the version, and what follows on them."""
    version, _library = struct.unpack(">HH", walk.take(4))
    if version < 0x0940:
        raise _Unknown
    walk.skip(2 + 1 + 1)
    flags = walk.big()
    walk.skip((4 if flags & 0x800 else 0) + 4 + 4 + 4)
    walk.skip(walk.big(1) + 4)
    if flags & 0x40:
        walk.skip(walk.big() + 4)
    return flags


_BY_END: dict[str, Callable[[Fetch, int, int], None]] = {"xz": _xz, "bzip2": _bzip2, "lzip": _lzip}
_BY_BLOCKS: dict[str, Callable[[_Walk], None]] = {"zstd": _zstd, "lz4": _lz4, "lzop": _lzop}
