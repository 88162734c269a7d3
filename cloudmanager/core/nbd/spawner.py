"""Starts processes from a thread that lives apart: in the root directory, and in a network with nothing in it.

To make a network namespace for each server takes a fifth of the time that its sandbox takes, and it has to be torn
down again. Servers can share one: no interface of it is up, and nothing listens in it.
"""

import ctypes
import errno
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, ThreadPoolExecutor
from dataclasses import dataclass

from cloudmanager.core.errors import ServerFailed

_CLONE_FS = 0x200
_CLONE_NEWNET = 0x40000000
"""Both are a thread's own after unshare(2)."""
_CLOSE_RANGE = 436
_CLOSE_RANGE_CLOEXEC = 4
"""close_range(2) of Linux 5.11, the same on every architecture; glibc before 2.34 has no wrapper."""
_PASSING = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_libc = ctypes.CDLL(None, use_errno=True)


_FIRST_AFTER_STANDARD = 3
_FIRST_KEPT = 16
"""The numbers below are those that a process is given its descriptors under."""


def out_of_the_way(descriptor: int) -> int:
    """The same file under a number that is not one of those that a process is given."""
    if descriptor >= _FIRST_KEPT:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_KEPT)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Descriptors:
    """What a process is given: its number, in rising order → ours. Its standard input is empty.

    Of ours, the last may have no number that is given earlier: `out_of_the_way` sees to it.
    """

    given: Mapping[int, int]
    kept: Sequence[int] = ()
    """Those that it gets under the number that they have here, which is out of the way."""

    def actions(self) -> list[tuple[int, int, int] | tuple[int, int, str, int, int]]:
        return [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_DUP2, ours, number) for number, ours in self.given.items()),
            *((os.POSIX_SPAWN_DUP2, ours, ours) for ours in self.kept),
        ]


class Spawner:
    """Starts processes in sessions of their own. Thread-safe."""

    def __init__(self, *, has_network: bool) -> None:
        """Without a network, which only root can leave."""
        apart = _CLONE_FS | (0 if has_network else _CLONE_NEWNET)
        self._thread = ThreadPoolExecutor(1, "spawn", initializer=_live_apart, initargs=(apart,))
        self._thread.submit(_rest)  # it starts now

    def spawn(self, command: Sequence[str], environment: Mapping[str, str], descriptors: Descriptors) -> int:
        """Returns its pid. Raises ServerFailed."""
        try:
            return self._thread.submit(_spawn, command, environment, descriptors).result()
        except BrokenExecutor as error:
            raise ServerFailed(
                "The sandbox cannot be set up: no network namespace can be made. Run the service with CAP_SYS_ADMIN, "
                'or set [nbd] sandbox = "none".'
            ) from error
        except (CancelledError, RuntimeError) as error:
            raise ServerFailed("The service is ending and starts no server.", retriable=True) from error
        except OSError as error:
            raise ServerFailed(
                f"{command[0]} cannot be started: {error.strerror}.", retriable=error.errno in _PASSING
            ) from error

    def close(self) -> None:
        """Waits for a start that is under way."""
        self._thread.shutdown(cancel_futures=True)


def _live_apart(flags: int) -> None:
    if _libc.unshare(flags):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    os.chdir("/")  # of this thread: a server keeps no directory of the service's from being unmounted


def _rest() -> None:
    """Nothing to do yet."""


def _spawn(command: Sequence[str], environment: Mapping[str, str], descriptors: Descriptors) -> int:
    # Python opens nothing that is inherited; a library might.
    _libc.syscall(_CLOSE_RANGE, _FIRST_AFTER_STANDARD, ctypes.c_uint(-1), _CLOSE_RANGE_CLOEXEC)
    return os.posix_spawn(
        command[0],
        list(command),
        environment,
        file_actions=descriptors.actions(),
        setsid=True,
        setsigdef=_IGNORED_BY_PYTHON,
    )
