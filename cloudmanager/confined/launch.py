"""Starts a confined program."""

import fcntl
import os
import re
import signal
import struct
import termios
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from io import FileIO

from cloudmanager.confined.errors import Ended, NoAnswer, Unconfinable
from cloudmanager.confined.groups import ControlGroup
from cloudmanager.confined.hold import Hold
from cloudmanager.confined.limits import Limits
from cloudmanager.confined.process import Process, is_hung_up, kill_child, reap_child, remaining
from cloudmanager.confined.sandbox import FILTER_FD, GATE_FD, INFO_FD, Confinement, moved_above_reserved
from cloudmanager.confined.spawner import Descriptors, Spawner

_LISTENER = 3
"""Where socket activation has it: https://www.freedesktop.org/software/systemd/man/sd_listen_fds.html"""
_GO = b"\n"
_ATTEMPTS = 20
_RACES = (
    "bwrap: Race condition binding",
    "bwrap: Can't get type of source",
    "bwrap: Can't bind mount",
    "bwrap: Can't find source path",
)
"""What bubblewrap says when a path that it was about to bind was exchanged, or is no more."""


_LIMIT_BYTES = 64 * 1024
_F_ADD_SEALS = 1033
_F_SEAL_SHRINK, _F_SEAL_GROW = 0x2, 0x4


class Stderr:
    """A file that takes a program's output, and is full after 64 KiB.

    It lives in memory and is sealed against growth: each malformed client makes qemu-nbd print a line, for as long as
    it serves, with or without a daemon. A pipe without a reader would block it, a file would fill the disk.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, _LIMIT_BYTES)
        fcntl.fcntl(self.fd, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW)

    def read(self) -> str:
        """From the beginning."""
        return os.pread(self.fd, _LIMIT_BYTES, 0).rstrip(b"\0").decode(errors="replace")

    def clear(self) -> None:
        """Forgets the output of an attempt that is made again."""
        os.pwrite(self.fd, bytes(os.lseek(self.fd, 0, os.SEEK_CUR)), 0)
        os.lseek(self.fd, 0, os.SEEK_SET)

    def close(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True)
class Launched:
    """A running program, with the process that is our child when the program is not."""

    server: Process
    launcher: int | None = None
    """bubblewrap's pid. Until we reap it, no other process can get the number."""
    hold: Hold | None = None
    group: ControlGroup | None = None
    """Its control group, where it has one of its own."""

    @contextmanager
    def held(self, deadline: float) -> Iterator[None]:
        """It has opened everything and stands still; after the block, unless that raises, it goes on.

        Raises Ended, NoAnswer. For a spawner that holds, in the thread that has started the program.
        """
        assert self.hold is not None  # noqa: S101 - see above
        self.hold.await_call(deadline)
        yield
        self.hold.release()

    def finish(self, grace_seconds: float = 0) -> int | None:
        """Ends, reaps and closes it. Returns its exit status as `reap` does."""
        self.server.end(grace_seconds)
        status = self.reap()
        self.server.close()
        return status

    def reap(self) -> int | None:
        """The exit status of an ended program, negative or above 128 for a signal, where it is known."""
        try:
            if self.launcher is None:
                return self.server.reap()
            if self.hold is not None:
                self.hold.give_up()
            return reap_child(self.launcher)
        finally:
            if self.group is not None:
                self.group.remove()


@dataclass(frozen=True)
class Launch:
    """What to start. The command begins with the program's path."""

    command: Sequence[str]
    confinement: Confinement
    stderr: Stderr
    """Takes its standard output too."""
    listener: int | None = None
    """The program's listening socket, by socket activation."""
    limits: Limits = field(default_factory=Limits)

    def start(self, spawner: Spawner, deadline: float) -> Launched:
        """Returns when it runs, with all that it is shown. Raises Ended, NoAnswer, Unconfinable, OSError."""
        for _ in range(_ATTEMPTS):
            try:
                return self._attempt(spawner, deadline)
            except Ended:
                if not (self.confinement.may_be_raced and self.stderr.read().startswith(_RACES)):
                    raise
                self.stderr.clear()
                spawner.settle()
        raise Unconfinable(
            "A file of the disk was deleted, or is exchanged again and again while it is opened: nothing is served.",
            is_passing=True,
        )

    def _attempt(self, spawner: Spawner, deadline: float) -> Launched:
        with ExitStack() as ends:
            report, report_end = _pipe(ends)
            gate_end, gate = _pipe(ends)
            exposures = ends.enter_context(self.confinement.exposures())
            given = self._given(ends, report_end, gate_end)
            command = self.confinement.wrap(self._shelled(), self.command[0])
            environment = self.confinement.environment | {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
            pid = spawner.spawn(command, environment, Descriptors(given, self.confinement.passed), exposures)
            ends.callback(spawner.forget, exposures)
            report_end.close()
            gate_end.close()
            launched = self._found(pid, report, deadline)
            try:
                self.limits.apply(launched.server.pid)
                launched = replace(launched, group=spawner.group(launched.server.pid, self.limits))
                if self.confinement.is_held:
                    launched = replace(launched, hold=Hold(launched.server))
                _open_gate(gate)
                if launched.launcher is not None:
                    _await_passage(gate, deadline)
            except BaseException as error:
                status = launched.finish()
                raise Ended(status) if isinstance(error, Ended) else error from None
            return launched

    def _found(self, pid: int, report: FileIO, deadline: float) -> Launched:
        """The program's process, by way of our child. Raises Ended, NoAnswer, OSError; then there is none."""
        try:
            if not self.confinement.has_launcher:
                return Launched(Process(pid))
            return Launched(_process(_reported_pid(report, deadline)), pid)
        except Ended:
            raise Ended(reap_child(pid)) from None
        except BaseException:
            kill_child(pid)
            raise

    def _given(self, ends: ExitStack, report_end: FileIO, gate_end: FileIO) -> dict[int, int]:
        given = {1: self.stderr.fd, 2: self.stderr.fd}
        if self.listener is not None:
            given[_LISTENER] = self.listener
        if self.confinement.has_launcher:
            given[INFO_FD] = report_end.fileno()
        given[GATE_FD] = gate_end.fileno()
        if (program := self.confinement.filter()) is not None:
            given[FILTER_FD] = _file_of(program, ends)
        return given

    def _shelled(self) -> list[str]:
        """The command, below a shell where something is to be set that only the process itself can set."""
        lines = self.limits.setting(is_waiting=self.confinement.has_launcher)
        return ["/bin/sh", "-c", "; ".join([*lines, 'exec "$@"']), "sh", *self.command] if lines else [*self.command]


def _pipe(ends: ExitStack) -> tuple[FileIO, FileIO]:
    reading, writing = map(moved_above_reserved, os.pipe())
    return (
        ends.enter_context(os.fdopen(reading, "rb", buffering=0)),
        ends.enter_context(os.fdopen(writing, "wb", buffering=0)),
    )


def _file_of(content: bytes, ends: ExitStack) -> int:
    fd = moved_above_reserved(os.memfd_create("filter", os.MFD_CLOEXEC))
    ends.callback(os.close, fd)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _process(pid: int) -> Process:
    try:
        return Process(pid)
    except ProcessLookupError:
        raise Ended from None
    except OSError:
        os.kill(pid, signal.SIGKILL)  # its parent, which waits for it, is our child
        raise


def _reported_pid(report: FileIO, deadline: float) -> int:
    """Of the process that bubblewrap says it has made; read when it is complete, for it comes in many pieces."""
    if not is_hung_up(report.fileno(), remaining(deadline)):
        raise NoAnswer
    match = re.search(rb'"child-pid": (\d+)', report.read())
    if match is None:
        raise Ended
    return int(match[1])


def _open_gate(gate: FileIO) -> None:
    """Raises Ended."""
    try:
        gate.write(_GO)
    except BrokenPipeError:
        raise Ended from None


def _await_passage(gate: FileIO, deadline: float) -> None:
    """Until bubblewrap has set everything up, and read what lets it go on. Raises Ended, NoAnswer."""
    if not is_hung_up(gate.fileno(), remaining(deadline)):
        raise NoAnswer
    if any(fcntl.ioctl(gate, termios.FIONREAD, bytes(struct.calcsize("i")))):
        raise Ended
