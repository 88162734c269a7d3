"""A server that serves."""

import os
import signal
import socket
import threading
from contextlib import suppress

from cloudmanager.confined import Launched, Process, Stderr
from cloudmanager.core.nbd import process
from cloudmanager.core.nbd.engine import program_of
from cloudmanager.core.nbd.engines import of_program
from cloudmanager.core.nbd.failure import last_output
from cloudmanager.core.nbd.hang_detection import Hang, HangDetector, ServerSample, queue_length
from cloudmanager.core.records import ServerProcess


class RunningServer:
    """One server process, started or adopted, until it is closed, which may be after the process has ended."""

    def __init__(
        self,
        record: ServerProcess,
        launched: Launched,
        stderr: Stderr | None,
        claims: tuple[int, ...],
        *,
        is_proven: bool = True,
    ) -> None:
        """`claims` are exclusive opens of its devices; they last until it is closed.

        One that is not proven was found by its name, and not verified yet.
        """
        self.record = record
        self.is_proven = is_proven
        self._launched = launched
        self._stderr = stderr
        self._claims = claims
        self._detector = HangDetector()
        self._is_reaped = False
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def server(self) -> Process:
        return self._launched.server

    @property
    def is_alive(self) -> bool:
        with self._lock:
            return not self._is_closed and self._launched.server.is_alive

    def client_count(self) -> int:
        return client_count(self.record.pid, self.record.listener_inode) if self.is_alive else 0

    def connection_slots(self) -> int | None:
        """The number of clients at which further ones stay in the queue. None: no such limit, or it has ended."""
        with suppress(OSError):
            command_line = process.command_line(self.record.pid)
            if (engine := of_program(program_of(command_line))) and engine.queues:
                return engine.connection_slots(command_line)
        return None

    def detect_hang(self, listener: socket.socket | None) -> Hang | None:
        """How it hangs, or None. Without its listener only one that was stopped is noticed."""
        with suppress(OSError):  # it has ended, or was just closed
            queue = queue_length(listener) if listener is not None else 0
            if queue and self._are_slots_taken():
                queue = 0  # they have to wait
            return self._detector.judge(ServerSample.take(self.server, queue))
        return None

    def _are_slots_taken(self) -> bool:
        slots = self.connection_slots()
        return slots is not None and self.client_count() >= slots

    def send(self, number: signal.Signals) -> None:
        with self._lock:
            if not self._is_closed:
                self.server.send(number)

    def end(self, grace_seconds: float) -> bool:
        """Whether it is gone. It has no more time to end by itself than its kind needs."""
        with suppress(OSError):
            if engine := of_program(program_of(process.command_line(self.record.pid))):
                grace_seconds = min(grace_seconds, engine.end_seconds)
        return self.server.end(grace_seconds)

    def reap(self) -> str:
        """Reaps it. Returns the end of its standard error; an empty text if it was reaped before."""
        with self._lock:
            if self._is_reaped:
                return ""
            self._is_reaped = True
            self._launched.reap()
            return last_output(self._stderr.read()) if self._stderr else ""

    def close(self) -> None:
        """Releases what we hold of it; the server goes on if it has not ended."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = self._is_reaped = True
            self._launched.server.close()
            if self._stderr:
                self._stderr.close()
            for claim in self._claims:
                os.close(claim)


def client_count(pid: int, listener_inode: int) -> int:
    """Connections that a server has accepted."""
    with suppress(PermissionError):
        return len(set(process.sockets(pid).values()) - {listener_inode})
    return 0
