"""Detects servers that run but do not work: a stopped or hanging one neither ends connections nor answers.

It is not connected to: that would take a connection slot from its clients, and a connection that waits proves nothing
while all slots are taken. The kernel knows enough. A server hangs when clients wait in its queue and its main loop,
which accepts them, has not run once from one look to a later one. A slow disk keeps others of its threads waiting.
"""

import re
import socket
import struct
import time
from dataclasses import dataclass, field

from cloudmanager.confined import Process
from cloudmanager.core.nbd import process

HANGS_SECONDS = 2.0
"""A busy machine keeps a process waiting for less."""
STOPPED = "T"
_ASLEEP = "S"
_WAITS = {
    "D": "it waits for its disk",
    "R": "it is given no processor time",
    "t": "a debugger holds it",
    _ASLEEP: "it waits for something else than a client",
}
"""By the letter of a process's state, as in proc(5)."""
_ENDED = "ZX"
_TURNS = re.compile(rb"^(?:non)?voluntary_ctxt_switches:\t(\d+)", re.MULTILINE)
"""In /proc/PID/status."""
_LISTENER_INFO = struct.Struct("24xI")
"""tcpi_unacked of Linux's struct tcp_info, which is the length of a listener's queue (tcp_get_info() in ipv4/tcp.c)."""


@dataclass(frozen=True)
class ServerSample:
    """What the kernel says of a server at one moment."""

    state: str
    turns: int
    """How often the main loop has been given a processor. Counted only while clients wait."""
    queue: int
    """Clients that it could accept, and has not."""
    seconds: float = field(default_factory=time.monotonic)
    """When it was taken, by the monotonic clock."""

    @classmethod
    def take(cls, server: Process, queue: int) -> "ServerSample":
        """Raises OSError when it has ended."""
        state, turns = process.state(server.pid), 0
        if queue:
            turns = sum(map(int, _TURNS.findall(process.read(server.pid, "status"))))
        if state in _ENDED:
            raise ProcessLookupError
        return cls(state, turns, queue)


@dataclass(frozen=True)
class Hang:
    """The state of a server that answers no client."""

    state: str
    seconds: float
    """For how long that has been seen."""

    @property
    def is_stopped(self) -> bool:
        """By a signal."""
        return self.state == STOPPED

    @property
    def is_asleep(self) -> bool:
        """Nothing holds it that a dead disk could explain, if it is a device: who waits for one does not sleep so."""
        return self.state == _ASLEEP

    @property
    def reason(self) -> str:
        return _WAITS.get(self.state, f"its state is {self.state}")


class HangDetector:
    """What was noticed of one server from look to look."""

    def __init__(self) -> None:
        self._first: ServerSample | None = None
        """The earliest since when it has not run while clients waited."""

    def judge(self, sample: ServerSample) -> Hang | None:
        """None: it does not hang."""
        if sample.state == STOPPED:
            return Hang(STOPPED, 0.0)
        if self._first is None or not sample.queue or sample.turns != self._first.turns:
            self._first = sample if sample.queue else None
            return None
        passed = sample.seconds - self._first.seconds
        return Hang(sample.state, passed) if passed >= HANGS_SECONDS else None


def queue_length(listener: socket.socket) -> int:
    """How many clients wait to be accepted."""
    information = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LISTENER_INFO.size)
    return int(_LISTENER_INFO.unpack(information)[0])
