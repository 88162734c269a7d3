"""Control groups: processor time and memory of a server with all its processes, a disk's limit, and a sure end."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from os import getpid
from pathlib import Path

from benchmarks.rig import leftovers

_MOUNTS = Path("/proc/self/mounts")
_NUMBERS = count()


@dataclass(frozen=True)
class Group:
    """Processes that are counted together."""

    directory: Path

    @property
    def pids(self) -> list[int]:
        """Also of the groups below it: a service's servers may have one each."""
        return [int(line) for file in self.directory.rglob("cgroup.procs") for line in file.read_text().split()]

    @contextmanager
    def joined(self) -> Iterator[None]:
        """This process is in it, and so is whatever it starts: without the time of a shell that joins first."""
        home = _mounted("cgroup2") / _own_group()
        try:  # from here on: a signal may come at any time
            _join(self.directory)
            yield
        finally:
            _join(home)

    def cpu_seconds(self) -> float:
        """Since the group was made, with every process that has ended."""
        fields = dict(line.split() for line in (self.directory / "cpu.stat").read_text().splitlines())
        return int(fields["usage_usec"]) / 1e6

    def memory_mib(self) -> float:
        return sum(map(memory_mib, self.pids))


@dataclass(frozen=True)
class Throttle:
    """A limit on what the processes of a group read from block devices."""

    directory: Path

    def limit(self, device_number: str, bytes_per_second: int) -> None:
        """`device_number` as in sysfs: `7:0`. Zero lifts the limit."""
        (self.directory / "blkio.throttle.read_bps_device").write_text(f"{device_number} {bytes_per_second}")


@contextmanager
def group() -> Iterator[Group]:
    """Whatever runs in it is killed at the end, also what has lost its parent."""
    directory = _new_directory(_mounted("cgroup2"))
    try:
        yield Group(directory)
    finally:
        leftovers.remove_group(directory)


@contextmanager
def throttle() -> Iterator[Throttle]:
    """Needs blkio of cgroup version 1: the io.max of version 2 does not hold a loop device back.

    Leave it after the `group` of the same processes.
    """
    directory = _new_directory(_mounted("cgroup", "blkio"))
    try:
        yield Throttle(directory)
    finally:
        leftovers.remove_group(directory)


def can_throttle() -> bool:
    """Whether this machine has what `throttle` needs."""
    return _hierarchy("cgroup", "blkio") is not None


def _mounted(kind: str, option: str = "") -> Path:
    found = _hierarchy(kind, option)
    if found is None:
        raise SystemExit(f"These benchmarks need a {kind} {option} hierarchy; {_MOUNTS} has none.")
    return found


def _hierarchy(kind: str, option: str) -> Path | None:
    for line in _MOUNTS.read_text().splitlines():
        _, target, found, options, *_ = line.split()
        if found == kind and (not option or option in options.split(",")):
            return Path(target)
    return None


@contextmanager
def scheduled_together() -> Iterator[None]:
    """This process, and whatever it starts, compete for the processors thread by thread.

    Outside of such a group the kernel divides time between sessions (sched_autogroup). A service's servers have one
    each, what is started in a shell has one for all: then the clients of many services starve, and those of one do not.
    """
    root = _hierarchy("cgroup", "cpu")
    if root is None:
        yield
        return
    home = root / _own_group("cpu")
    directory = _new_directory(home)  # below it: whatever share of the machine this process was given still holds
    try:
        _join(directory)
        yield
    finally:
        _join(home)
        leftovers.remove_group(directory)


def _own_group(controller: str = "") -> str:
    """Relative to where it is mounted. A line is `4:cpu,cpuacct:/some/group`; that of version 2 names no controller."""
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    return next(path for _, held, path in lines if controller in held.split(",")).removeprefix("/")


def _join(directory: Path) -> None:
    (directory / "cgroup.procs").write_text(str(getpid()))


def _new_directory(root: Path) -> Path:
    directory = root / f"{leftovers.MARK}-{getpid()}-{next(_NUMBERS)}"
    directory.mkdir()
    return directory


def memory_mib(pid: int) -> float:
    """Proportional set size: what is shared with other processes counts in part. No page cache. 0 once it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
