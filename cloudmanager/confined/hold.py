"""A server that has opened everything, and is stopped until somebody has checked what that is.

qemu-nbd calls chdir("/") once: after it has opened its images and its keys, and before it accepts its first client
(main() in qemu-nbd.c, since 2011: "initialization is (almost) complete"). A filter (`filter.HELD_CALL`) gives that
call to a tracer. Without one it fails, and qemu-nbd ends: so no server goes on unchecked, not even when the
service is killed in the meantime. Clients may queue on its listener all the time; they are not accepted.
"""

import os
import signal
import time
from contextlib import suppress

from cloudmanager.confined import kernel
from cloudmanager.confined.errors import Ended, NoAnswer, Unconfinable
from cloudmanager.confined.process import Process, remaining

_IS_HELD = signal.SIGTRAP | kernel.PTRACE_EVENT_SECCOMP << 8
_FIRST_EVENT = 1 << 8
"""Below are signals that it is about to get."""
_STOP_SIGNALS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.0005, 0.01
_PART_OF_THE_WAIT = 8
"""The looks are apart by this part of the time that has passed: that much is the most that one comes too late."""
_SEIZE_SECONDS = 10.0
"""While bubblewrap changes its identity an ordinary user may not trace it."""


class Hold:
    """The thread that makes it must make all the calls. When that thread ends, the process is killed."""

    def __init__(self, process: Process) -> None:
        """Raises Ended, Unconfinable."""
        self._process = process
        self._is_over = False
        options = kernel.PTRACE_O_TRACESECCOMP | kernel.PTRACE_O_EXITKILL
        since = time.monotonic()
        while True:
            try:
                kernel.ptrace(kernel.PTRACE_SEIZE, process.pid, options)
            except ProcessLookupError:
                raise Ended from None
            except PermissionError as error:
                if process.wait(_pause(since)):
                    raise Ended from None
                if time.monotonic() > since + _SEIZE_SECONDS:
                    raise Unconfinable(
                        "A server cannot be held until what it has opened is proved: it cannot be traced. Look at "
                        "kernel.yama.ptrace_scope and at a container's seccomp profile, or end the debugger that "
                        "follows this service."
                    ) from error
            else:
                return

    def await_call(self, deadline: float) -> None:
        """Returns when the process stands still at the call. Raises Ended, NoAnswer."""
        since = time.monotonic()
        while not self._is_held():
            if self._process.wait(min(_pause(since), remaining(deadline))):
                raise Ended
            if not remaining(deadline):
                raise NoAnswer

    def release(self) -> None:
        """The process goes on. Raises Ended."""
        self._is_over = True
        try:
            kernel.ptrace(kernel.PTRACE_DETACH, self._process.pid)
        except ProcessLookupError:
            raise Ended from None

    def give_up(self) -> None:
        """Of an ended process: its parent gets the exit status only after its tracer. Does nothing after a release."""
        if not self._is_over:
            self._is_over = True
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | kernel.WAIT_FOR_THREADS_TOO)

    def _is_held(self) -> bool:
        """Whether it is; it goes on from any other stop, and is not to be stopped by signals until then."""
        try:
            stop = os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOHANG | kernel.WAIT_FOR_THREADS_TOO)
        except ChildProcessError:
            return False  # it has ended
        if stop is None:
            return False
        if stop.si_status == _IS_HELD:
            return True
        with suppress(ProcessLookupError):
            is_for_it = stop.si_status < _FIRST_EVENT and stop.si_status not in _STOP_SIGNALS
            kernel.ptrace(kernel.PTRACE_CONT, self._process.pid, stop.si_status if is_for_it else 0)
        return False


def _pause(since: float) -> float:
    waited = time.monotonic() - since
    return min(max(waited / _PART_OF_THE_WAIT, _SHORTEST_SECONDS), _LONGEST_SECONDS)
