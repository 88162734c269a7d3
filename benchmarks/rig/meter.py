"""A program at the end of a pipe: prints the bytes per second that came after the first SKIP bytes.

It is how `| pv` is used in a shell, without what a limiter lets through at the start. A limiter lets the rest through
in portions, so where the first and the last one fall would decide; the slope of all that came does not depend on it.
"""

import os
import statistics
import sys
import time

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
    print(statistics.linear_regression(times, totals).slope)


if __name__ == "__main__":
    main()
