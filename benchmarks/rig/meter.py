"""A program at the end of a pipe: prints the bytes per second that came after the first SKIP bytes.

It is how `| pv` is used in a shell, without what a limiter lets through at the start. A limiter lets the rest through
in portions, so where the first and the last one fall would decide; the slope of all that came does not depend on it.
"""

import os
import statistics
import sys
import time
from collections.abc import Sequence

_BUFFER = bytearray(2**20)


def main() -> None:
    skip, total = int(sys.argv[1]), 0
    times: list[float] = []
    totals: list[int] = []
    while size := os.readv(0, [_BUFFER]):
        total += size
        if total >= skip:
            times.append(time.perf_counter())
            totals.append(total)
    print(slope(times, totals))


def slope(seconds: Sequence[float], totals: Sequence[int]) -> float:
    """Bytes per second; the totals are what had come at each time."""
    return statistics.linear_regression(seconds, totals).slope


if __name__ == "__main__":
    main()
