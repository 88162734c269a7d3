"""Starts a server with the listener in its hands."""

import errno
import os
import re
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO

from cloudmanager.core.errors import ServerFailed
from cloudmanager.core.nbd.confinement import Confinement
from cloudmanager.core.nbd.handshake import NoAnswer, ServerEnded
from cloudmanager.core.nbd.process import Process, is_readable, remaining
from cloudmanager.core.nbd.words import Words

_ACTIVATE = 'LISTEN_PID=$$ LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; exec "$@" 3<&0 </dev/null'
"""Socket activation wants the server's own pid in the environment, and the listener as descriptor 3.

https://www.freedesktop.org/software/systemd/man/sd_listen_fds.html
"""
_LIMIT_UNIT = 512
"""Bytes that `ulimit -f` counts in (POSIX)."""
_REAP_SECONDS = 2.0
_KILL_SECONDS = 5.0
_PASSING = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True)
class Launched:
    """A server, with the process that is our child when the server is not."""

    server: Process
    launcher: int | None = None
    """bubblewrap's pid. While we have not reaped it, nobody else can have the number."""

    def end(self, patience_seconds: float) -> bool:
        """Asks it to end, then kills it; whether it is gone (one that waits for a dead device cannot be killed)."""
        self.server.send(signal.SIGTERM)
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

    def start(self, deadline: float) -> Launched:
        """Raises ServerEnded, NoAnswer, ServerFailed, OSError."""
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", buffering=0) as report:
            with os.fdopen(writing, "wb", buffering=0):
                pid = self._spawn(writing)
            try:
                return _below(pid, report, deadline) if self.confinement.has_launcher else Launched(Process(pid))
            except BaseException:
                _kill_child(pid)
                raise

    def _spawn(self, info_fd: int) -> int:
        command = self.confinement.wrap(["/bin/sh", "-c", self._shim(), "sh", *self.command], info_fd)
        try:
            child = subprocess.Popen(
                command,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                stdin=self.listener.fileno(),
                stdout=self.words.fd,
                stderr=self.words.fd,
                pass_fds=(*self.confinement.inherited, *([info_fd] if self.confinement.has_launcher else [])),
                start_new_session=True,
            )
        except OSError as error:
            raise ServerFailed(
                f"{command[0]} cannot be started: {error.strerror}.", retriable=error.errno in _PASSING
            ) from error
        # It is waited for by pidfd; Popen would warn that it still runs, and poll for it now and then.
        pid: int = child.pid
        child.returncode = 0
        return pid

    def _shim(self) -> str:
        if self.file_limit_bytes is None:
            return _ACTIVATE
        # Ignored, the signal becomes an error of the write, which the client gets as ENOSPC.
        return f'trap "" XFSZ; ulimit -f {self.file_limit_bytes // _LIMIT_UNIT}; {_ACTIVATE}'


def _below(launcher: int, report: FileIO, deadline: float) -> Launched:
    """The process that bubblewrap says it has made."""
    try:
        return Launched(Process(_reported_pid(report, deadline)), launcher)
    except (ServerEnded, ProcessLookupError):
        raise ServerEnded(reap_child(launcher)) from None


def _reported_pid(report: FileIO, deadline: float) -> int:
    """Reads to the end of the report: bubblewrap dies when nobody takes all of it."""
    text = b""
    while is_readable(report.fileno(), remaining(deadline)):
        part = report.read(4096)
        if part:
            text += part
            continue
        match = re.search(rb'"child-pid": (\d+)', text)
        if match is None:
            raise ServerEnded
        return int(match[1])
    raise NoAnswer
