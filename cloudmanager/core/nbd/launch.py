"""Starts a server with the listener in its hands."""

import os
import re
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO

from cloudmanager.core.nbd.confinement import Confinement
from cloudmanager.core.nbd.handshake import NoAnswer, ServerEnded
from cloudmanager.core.nbd.process import Process, is_hung_up, remaining
from cloudmanager.core.nbd.spawner import Descriptors, Spawner, out_of_the_way
from cloudmanager.core.nbd.words import Words

_LISTENER, _REPORT = 3, 4
"""Descriptors of a server: where socket activation has its listener, and where its launcher reports.

https://www.freedesktop.org/software/systemd/man/sd_listen_fds.html
"""
_LIMIT_UNIT = 512
"""Bytes that `ulimit -f` counts in (POSIX)."""
_REAP_SECONDS = 2.0
_KILL_SECONDS = 5.0


@dataclass(frozen=True)
class Launched:
    """A server, with the process that is our child when the server is not."""

    server: Process
    launcher: int | None = None
    """bubblewrap's pid. While we have not reaped it, nobody else can have the number."""

    def end(self, patience_seconds: float) -> bool:
        """Asks it to end, then kills it; whether it is gone (one that waits for a dead device cannot be killed)."""
        self.server.send(signal.SIGTERM)
        self.server.send(signal.SIGCONT)  # one that was stopped would not hear it
        if self.server.wait(patience_seconds):
            return True
        self.server.send(signal.SIGKILL)
        return self.server.wait(_KILL_SECONDS)

    def reap(self) -> int | None:
        """The exit status of an ended server, negative or above 128 for a signal, where it is known."""
        status = self.server.reap()
        return status if self.launcher is None else reap_child(self.launcher)


def reap_child(pid: int) -> int | None:
    """The exit status of a child that is ending; one that does not is killed. None when it is no child of ours."""
    child = Process.find(pid)
    if child is None:
        return None
    try:
        if not child.wait(_REAP_SECONDS):
            child.send(signal.SIGKILL)
            child.wait(_REAP_SECONDS)
        return child.reap()
    finally:
        child.close()


def _kill_child(pid: int) -> None:
    """Needs no descriptor: they may be what has run out."""
    with suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG) == (0, 0):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@dataclass(frozen=True)
class Launch:
    """What to start."""

    command: list[str]
    confinement: Confinement
    listener: socket.socket
    words: Words
    file_limit_bytes: int | None
    """The size to which the server's writes may make a file grow."""

    def start(self, spawner: Spawner, deadline: float) -> Launched:
        """Raises ServerEnded, NoAnswer, ServerFailed, OSError."""
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", buffering=0) as report:
            with os.fdopen(out_of_the_way(writing), "wb", buffering=0) as end:
                pid = self._spawn(spawner, end.fileno())
            try:
                return _below(pid, report, deadline) if self.confinement.has_launcher else Launched(Process(pid))
            except BaseException:
                _kill_child(pid)
                raise

    def _spawn(self, spawner: Spawner, info_fd: int) -> int:
        given = {1: self.words.fd, 2: self.words.fd, _LISTENER: self.listener.fileno()}
        if self.confinement.has_launcher:
            given[_REPORT] = info_fd
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        descriptors = Descriptors(given, self.confinement.inherited)
        return spawner.spawn(self.confinement.wrap(self._shelled(), _REPORT), environment, descriptors)

    def _shelled(self) -> list[str]:
        """The command, below a shell where something is to be set that only the process itself can set."""
        lines = [*self.confinement.setting, *self._limit()]
        return ["/bin/sh", "-c", "; ".join([*lines, 'exec "$@"']), "sh", *self.command] if lines else self.command

    def _limit(self) -> list[str]:
        if self.file_limit_bytes is None:
            return []
        # Ignored, the signal becomes an error of the write, which the client gets as ENOSPC.
        return ['trap "" XFSZ', f"ulimit -f {self.file_limit_bytes // _LIMIT_UNIT}"]


def _below(launcher: int, report: FileIO, deadline: float) -> Launched:
    """The process that bubblewrap says it has made."""
    try:
        return Launched(Process(_reported_pid(report, deadline)), launcher)
    except (ServerEnded, ProcessLookupError):
        raise ServerEnded(reap_child(launcher)) from None


def _reported_pid(report: FileIO, deadline: float) -> int:
    """Read when it is complete: it comes in many pieces, and a pipe holds all of them."""
    if not is_hung_up(report.fileno(), remaining(deadline)):
        raise NoAnswer
    match = re.search(rb'"child-pid": (\d+)', report.read())
    if match is None:
        raise ServerEnded
    return int(match[1])
