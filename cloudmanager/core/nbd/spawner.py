"""Starts processes from threads that live apart: in the root directory, and in a network with nothing in it.

To make a network namespace for each server takes a fifth of the time that its sandbox takes, and it has to be torn
down again. Servers can share one: no interface of it is up, and nothing listens in it.
"""

import ctypes
import errno
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from dataclasses import dataclass

from cloudmanager.core.errors import ServerFailed

_CLONE_FS = 0x200
_CLONE_NEWNET = 0x40000000
"""Both are a thread's own after unshare(2)."""
_THREADS = 4
_PASSING = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_libc = ctypes.CDLL(None, use_errno=True)


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
        self._threads = ThreadPoolExecutor(_THREADS, "spawn", initializer=_live_apart, initargs=(apart,))

    def spawn(self, command: Sequence[str], environment: Mapping[str, str], descriptors: Descriptors) -> int:
        """Returns its pid. Raises ServerFailed."""
        try:
            return self._threads.submit(_spawn, command, environment, descriptors).result()
        except BrokenExecutor as error:
            raise ServerFailed(
                "The sandbox cannot be set up: no network namespace can be made. Run the service with CAP_SYS_ADMIN, "
                'or set [nbd] sandbox = "none".'
            ) from error
        except OSError as error:
            raise ServerFailed(
                f"{command[0]} cannot be started: {error.strerror}.", retriable=error.errno in _PASSING
            ) from error

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _live_apart(flags: int) -> None:
    if _libc.unshare(flags):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    os.chdir("/")  # of this thread: a server keeps no directory of the service's from being unmounted


def _spawn(command: Sequence[str], environment: Mapping[str, str], descriptors: Descriptors) -> int:
    return os.posix_spawn(
        command[0],
        command,
        environment,
        file_actions=descriptors.actions(),
        setsid=True,
        setsigdef=_IGNORED_BY_PYTHON,
    )
