"""The disks that are read, and how fast they may be."""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.rig.cgroup import can_throttle
from benchmarks.rounds import Effort

MIB = 2**20
GIB = 2**30


@dataclass(frozen=True)
class Limit:
    """What a disk is throttled to."""

    label: str
    bytes_per_second: int
    """0: not at all."""
    size_bytes: int
    """Of the disk. Under a limit six seconds of reading: a limiter lets a tenth of a second's worth through at a time,
    and where the last portion falls is half a per cent of four seconds. Much more where nothing limits it."""
    rounds: int

    def case(self, what: str) -> str:
        return f"{what}, {self.label}"

    def size(self, effort: Effort) -> int:
        """fio leaves out its first second: what a limiter lets through in that must not be all."""
        if effort.is_quick and self.bytes_per_second:
            return self.size_bytes // 2
        return effort.size(self.size_bytes)


SMALL_MACHINE = Limit("14.4 MB/s", 14_400_000, 96 * MIB, 5)
LARGE_MACHINE = Limit("60.5 MB/s", 60_500_000, 384 * MIB, 5)
NO_LIMIT = Limit("no limit", 0, GIB, 5)
EMULATED = Limit("no limit", 0, 32 * MIB, 3)
"""For the kernel's client, in a virtual machine whose network is slow."""
EMULATED_LIMITED = Limit("3 MB/s", 3_000_000, 20 * MIB, 3)
"""Less than that network carries, or it would be the network that is compared with the disk."""
LIMITS = (SMALL_MACHINE, LARGE_MACHINE, NO_LIMIT)
KERNEL_CLIENT_LIMITS = (EMULATED_LIMITED, EMULATED)


def possible(limits: Iterable[Limit]) -> list[Limit]:
    """Those that this machine can impose."""
    return [limit for limit in limits if not limit.bytes_per_second or can_throttle()]
