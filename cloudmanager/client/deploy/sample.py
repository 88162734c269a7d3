"""Some of the content, by which is told what compression would bring at best."""

import os
import time
from collections import deque

_PIECES = 8
"""As long as requests are; the threads that write add them, each from where it is."""
_ALL_THE_WORK = 1.6
"""Processor time to read, compress and send, in times of what compression alone takes."""


class Sample:
    """The last pieces that were sent. For several threads."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque(maxlen=_PIECES)

    def add(self, piece: memoryview) -> None:
        self._pieces.append(bytes(piece))

    def promise(self, link_rate: float, level: int) -> float:
        """Bytes of content per second, if nothing but the link and this machine's processors held it back.

        Raises ModuleNotFoundError.
        """
        import zstandard  # noqa: PLC0415 # an extra, and needed on slow links only

        compressor = zstandard.ZstdCompressor(level=level)
        pieces = list(self._pieces)
        began = time.thread_time()
        packed = sum(len(compressor.compress(piece)) for piece in pieces)
        spent = max(time.thread_time() - began, 1e-6)
        plain = sum(map(len, pieces))
        return min(link_rate * plain / max(packed, 1), plain / (_ALL_THE_WORK * spent) * len(os.sched_getaffinity(0)))
