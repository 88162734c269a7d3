"""A process of this machine, held by a pidfd so that its number cannot come to mean another one."""

import os
import select
import signal
import time
from contextlib import suppress
from typing import Self

from cloudmanager.confined import kernel

_REAP_SECONDS = 2.0
_KILL_SECONDS = 5.0


class Process:
    """Signals and waits for one process, of any parent."""

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

    def end(self, grace_seconds: float, kill_seconds: float = _KILL_SECONDS) -> bool:
        """Asks it to end, and kills it when it has not done so within the grace period; whether it is gone.

        One that waits for a dead device cannot be killed; it is waited for `kill_seconds`.
        """
        if grace_seconds > 0:
            self.send(signal.SIGTERM)
            self.send(signal.SIGCONT)  # a stopped process would not act on the first one
            if self.wait(grace_seconds):
                return True
        self.send(signal.SIGKILL)
        return self.wait(kill_seconds)

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
        return kernel.pidfd_getfd(self.fd, number)

    def close(self) -> None:
        os.close(self.fd)


def reap_child(pid: int) -> int | None:
    """The exit status of a child that is ending; one that does not is killed. None when it is no child of ours."""
    child = Process.find(pid)
    if child is None:
        return None
    try:
        if not child.wait(_REAP_SECONDS):
            child.end(0, _REAP_SECONDS)
        return child.reap()
    finally:
        child.close()


def kill_child(pid: int) -> None:
    """Needs no descriptor: they may be what has run out."""
    with suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG) == (0, 0):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def is_readable(fd: int, seconds: float) -> bool:
    return _happens(fd, select.POLLIN, seconds)


def is_hung_up(fd: int, seconds: float) -> bool:
    """Whether the other end of a pipe is closed, whatever was written to it."""
    return _happens(fd, 0, seconds)


def _happens(fd: int, events: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def remaining(deadline: float) -> float:
    """Seconds until a moment of the monotonic clock, at least 0."""
    return max(0.0, deadline - time.monotonic())
