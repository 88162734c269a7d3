"""A process of this machine, held by a pidfd so that its number cannot come to mean another one."""

import ctypes
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self

_PIDFD_GETFD = 438
"""The number of the system call, the same on every architecture (Linux 5.6); libc has no wrapper before glibc 2.36."""

_LONGEST_READ = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


class Process:
    """Signals and waits for one process, whoever its parent is."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError when there is none."""
        self.pid = pid
        self.fd = os.pidfd_open(pid)

    @classmethod
    def find(cls, pid: int) -> Self | None:
        try:
            return cls(pid)
        except ProcessLookupError:
            return None

    @property
    def is_alive(self) -> bool:
        return not self.wait(0)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        return is_readable(self.fd, seconds)

    def send(self, number: signal.Signals) -> None:
        """Does nothing when it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.fd, number)

    def reap(self) -> int | None:
        """Its exit status, negative for a signal, when it is an ended child of ours."""
        try:
            result = os.waitid(os.P_PIDFD, self.fd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def take_descriptor(self, number: int) -> int:
        """A duplicate of one of its open descriptors. Raises PermissionError where ptrace would be refused."""
        taken: int = _libc.syscall(_PIDFD_GETFD, self.fd, number, 0)
        if taken < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return taken

    def close(self) -> None:
        os.close(self.fd)


def is_readable(fd: int, seconds: float) -> bool:
    return _happens(fd, select.POLLIN, seconds)


def is_hung_up(fd: int, seconds: float) -> bool:
    """Whether nobody can write to a pipe any more, whatever was written to it."""
    return _happens(fd, 0, seconds)


def _happens(fd: int, events: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def remaining(deadline: float) -> float:
    """Seconds until a moment of the monotonic clock, at least 0."""
    return max(0.0, deadline - time.monotonic())


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
