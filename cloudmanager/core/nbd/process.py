"""Reads /proc about a process."""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

_LONGEST_READ = 1 << 16


@cache
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from its third field (the state) on; the second may contain anything. Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def read(pid: int, name: str) -> bytes:
    """The beginning of a file of /proc/PID. Raises OSError.

    Without a file object of Python's, which costs twice as much: a thousand servers are looked at every few seconds.
    """
    descriptor = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _LONGEST_READ)
    finally:
        os.close(descriptor)


def state(pid: int) -> str:
    """A letter, as in proc(5). Raises OSError."""
    fields = read(pid, "stat")
    return chr(fields[fields.rindex(b") ") + 2])


def start_time(pid: int) -> int:
    """Clock ticks from boot to the start of the process: with its pid, its name in this boot. Raises OSError."""
    return int(stat_fields(pid)[19])


def parent(pid: int) -> int:
    """Raises OSError."""
    return int(stat_fields(pid)[1])


def command_line(pid: int) -> list[str]:
    """Empty for a zombie. Raises OSError."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]


def owner(pid: int) -> int:
    """The user that it runs as. Raises OSError."""
    return Path(f"/proc/{pid}").stat().st_uid


def all_pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())  # noqa: PTH208 - no Path per process


def descriptors(pid: int) -> dict[int, str]:
    """What each of its descriptors refers to, as /proc shows it. Empty once it has ended.

    Raises PermissionError for another user's process.
    """
    targets = {}
    with suppress(FileNotFoundError, ProcessLookupError):
        for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
            with suppress(FileNotFoundError, ProcessLookupError):
                targets[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")  # noqa: PTH115 - not always a path
    return targets


def sockets(pid: int) -> dict[int, int]:
    """Its sockets: descriptor → inode."""
    return {
        number: int(target.removeprefix("socket:[").removesuffix("]"))
        for number, target in descriptors(pid).items()
        if target.startswith("socket:[")
    }
