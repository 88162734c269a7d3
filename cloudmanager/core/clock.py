"""Time, of which there are two kinds: the wall clock for people, the boot clock for decisions.

The wall clock jumps (NTP, an operator); CLOCK_BOOTTIME does not, counts suspended time, and starts again at each boot,
so a reading of it means something only together with the boot id.
"""

import time
from datetime import UTC, datetime
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock:
    """The machine's clocks. Tests pass a subclass that they can set."""

    def __init__(self) -> None:
        self.boot_id = _BOOT_ID.read_text().strip()

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        return datetime.now(UTC)

    def boottime(self) -> float:
        """Seconds since boot, suspended time included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
