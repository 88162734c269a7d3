"""Starts programs from a thread that lives apart: in the root directory, in a network with nothing in it, and with
mounts of its own.

To make a network namespace for each server takes a fifth of the time that its sandbox takes, and it has to be torn
down again. Servers can share one: no interface of it is up, and nothing listens in it.
"""

import errno
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from cloudmanager.confined import filter as system_calls
from cloudmanager.confined import kernel, mounts
from cloudmanager.confined.errors import Unconfinable
from cloudmanager.confined.groups import ControlGroup, ControlGroups
from cloudmanager.confined.limits import Limits
from cloudmanager.confined.sandbox import Bare, Confinement, PrivilegedBubblewrap, UserBubblewrap

_FIRST_AFTER_STANDARD = 3
_PASSING = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_NONE = mounts.Abilities(has_trees=False, has_null_device=False)
log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Descriptors:
    """What a process is given: its number, in rising order → ours. Its standard input is empty.

    Of ours, the last may have no number that is given earlier: `moved_above_reserved` ensures that.
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

    def __init__(self, *, is_sandboxed: bool, holds: bool) -> None:
        """`holds`: what it starts stands still when it has opened everything, until it is released (`hold`)."""
        self.is_sandboxed = is_sandboxed
        self._holds = holds
        self._is_privileged = is_sandboxed and is_privileged()
        self.groups = ControlGroups.find()
        self._thread = ThreadPoolExecutor(1, "spawn")
        self._cleaner = ThreadPoolExecutor(1, "unmount")
        self._abilities = self._thread.submit(self._enter_namespaces)
        wait([self._abilities])

    def confinement(self, *, is_held: bool = True) -> Confinement:
        """For one program; `is_held`, if the spawner holds: it can be, for it makes the call. Raises Unconfinable."""
        is_held = is_held and self._holds
        if not self.is_sandboxed:
            return Bare(is_held=is_held)
        if not self._is_privileged:
            return UserBubblewrap(is_held=is_held)
        return PrivilegedBubblewrap(self._namespaces_entered(), self.can_make_node, is_held=is_held)

    def spawn(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        descriptors: Descriptors,
        exposures: Sequence[mounts.Tree | mounts.DeviceNode] = (),
    ) -> int:
        """Returns its pid; it finds the `exposures` where they are to be until `forget`. Raises Unconfinable."""
        try:
            return self._run(_spawn, command, environment, descriptors, exposures)
        except OSError as error:
            raise Unconfinable(
                f"{command[0]} cannot be started: {error.strerror}.", is_passing=error.errno in _PASSING
            ) from error

    def group(self, pid: int, limits: Limits) -> ControlGroup | None:
        """Puts a process into a control group of its own, where that can be and something is limited."""
        if self.groups is None or limits.processes is None:
            return None
        group = None
        try:
            group = self.groups.make(pid, processes=limits.processes, cpu_weight=limits.cpu_weight)
            group.add(pid)
        except OSError as error:  # it has ended, or the hierarchy is not ours any more
            log.warning("process %d has no control group of its own: %s", pid, error.strerror)
            if group is not None:
                group.remove()
            return None
        return group

    def forget(self, exposures: Sequence[mounts.Tree | mounts.DeviceNode]) -> None:
        """The program has found them. The kernel takes a while to unmount; other programs are started meanwhile."""
        if exposures:
            with suppress(RuntimeError):  # closed: the namespace goes with its threads
                self._cleaner.submit(mounts.remove, exposures)

    def settle(self) -> None:
        """Waits until what was to be forgotten is gone."""
        with suppress(RuntimeError):
            self._cleaner.submit(_rest).result()

    def close(self) -> None:
        """Waits for a start that is under way."""
        self._thread.shutdown(cancel_futures=True)
        self._cleaner.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _enter_namespaces(self) -> mounts.Abilities:
        """Raises OSError, Unconfinable."""
        kernel.unshare(kernel.CLONE_FS | (kernel.CLONE_NEWNET if self._is_privileged else 0))
        abilities = mounts.set_up() if self._is_privileged else _NONE
        os.chdir("/")  # of this thread: a server keeps no directory of the service's from being unmounted
        self._cleaner.submit(_rest).result()  # a thread is in the namespaces of the one that starts it
        if self._holds and not self.is_sandboxed:
            kernel.filter_system_calls(system_calls.hold_only())
        return abilities

    def _namespaces_entered(self) -> mounts.Abilities:
        """What `_enter_namespaces` has found. Raises Unconfinable."""
        try:
            return self._abilities.result()
        except CancelledError as error:
            raise _ending() from error
        except OSError as error:
            raise Unconfinable(
                f"The sandbox cannot be set up: no namespace for it can be made ({error.strerror}). Run the service "
                "with CAP_SYS_ADMIN."
            ) from error

    def can_make_node(self, device: int) -> bool:
        """Whether a device is shown by a node of its own, which keeps its program from more than it may.

        Otherwise only the filter of system calls does. Raises Unconfinable.
        """
        return self._is_privileged and self._run(mounts.can_make_node, device)

    def _run(self, function: Callable[_P, _R], *arguments: _P.args, **options: _P.kwargs) -> _R:
        """In the thread. Raises Unconfinable, and what the function raises."""
        self._namespaces_entered()
        try:
            return self._thread.submit(function, *arguments, **options).result()
        except (CancelledError, RuntimeError) as error:
            raise _ending() from error


@cache
def is_privileged() -> bool:
    """Root that may make namespaces; in many containers it may not."""
    return os.geteuid() == 0 and bool(kernel.effective_capabilities() >> kernel.CAP_SYS_ADMIN & 1)


def _ending() -> Unconfinable:
    return Unconfinable("The service is ending and starts no server.", is_passing=True)


def _rest() -> None:
    """Nothing to do yet."""


def _spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Descriptors,
    exposures: Sequence[mounts.Tree | mounts.DeviceNode],
) -> int:
    mounts.expose(exposures)
    # Python opens nothing that is inherited; a library might.
    kernel.close_on_exec_from(_FIRST_AFTER_STANDARD)
    try:
        return os.posix_spawn(
            command[0],
            list(command),
            environment,
            file_actions=descriptors.actions(),
            setsid=True,
            setsigdef=_IGNORED_BY_PYTHON,
        )
    except BaseException:
        mounts.remove(exposures)
        raise
