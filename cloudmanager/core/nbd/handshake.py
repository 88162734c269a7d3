"""A handshake with a server that was started: the proof that it has opened its disk and serves it."""

import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cloudmanager.confined.errors import Ended, NoAnswer
from cloudmanager.confined.process import Process, remaining
from cloudmanager.transfer import negotiation
from cloudmanager.transfer.negotiation import LONGEST_REPLY_BYTES, ExportInfo, ProtocolError

_DISCONNECT_SECONDS = 1.0
_CHECK_SECONDS = 0.25
"""How often a server that has not answered is looked at: it may be serving others."""
_RETRY_SECONDS = 0.02
"""After we were refused."""


class WrongSize(Exception):
    """It serves the export, but not in the size that its disk has."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self.size_bytes = size_bytes


class _Occupied(Exception):
    """Other clients have taken every connection slot."""


class _Refused(Exception):
    """The server hung up before it greeted us, as it does when no connection slot is free."""


@dataclass(frozen=True)
class ExpectedExport:
    """What to wait for, and how long."""

    server: Process
    name: str
    size_bytes: int
    """That the export must have."""
    requires_tls: bool
    deadline: float
    """On the monotonic clock."""
    is_occupied: Callable[[], bool]
    """Whether clients hold every connection slot. They were accepted, so the disk is open; we would not be served."""


def await_ready(address: tuple[str, int], readiness: ExpectedExport) -> None:
    """Returns when the server serves the export. The listener queues, so one connection is enough, unless the
    server refuses us because others have the connection slots.

    Raises Ended, NoAnswer, ProtocolError, WrongSize. A server that requires TLS says no size.
    """
    while _is_refused(address, readiness):
        if readiness.is_occupied():
            return
        if readiness.server.wait(min(_RETRY_SECONDS, remaining(readiness.deadline))):
            raise Ended
        if not remaining(readiness.deadline):
            raise NoAnswer


def _is_refused(address: tuple[str, int], readiness: ExpectedExport) -> bool:
    """Whether the server has hung up before it greeted us. Raises as `await_ready`."""
    try:
        with socket.create_connection(address, timeout=remaining(readiness.deadline) or 0.001) as connection:
            _Conversation(connection, readiness).negotiate()
    except _Occupied:
        return False
    except _Refused:
        return True
    except TimeoutError as error:
        raise NoAnswer from error
    except OSError as error:
        if readiness.server.wait(1):
            raise Ended from error
        raise ProtocolError(str(error)) from error
    return False


class _Conversation:
    def __init__(self, connection: socket.socket, readiness: ExpectedExport) -> None:
        self._connection = connection
        self._readiness = readiness
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(readiness.server.fd, select.POLLIN)
        self._received = b""

    def negotiate(self) -> None:
        try:
            greeting = self._receive(negotiation.GREETING_BYTES)
        except ConnectionResetError:
            raise _Refused from None
        negotiation.server_flags(greeting)
        self._connection.sendall(negotiation.client_flags() + negotiation.go(self._readiness.name))
        reply = negotiation.read_reply(self._receive)
        if reply.is_acknowledged and not self._readiness.requires_tls:
            self._connection.sendall(negotiation.disconnect_request())
            self._check_size(reply.served)
        elif not (reply.requires_tls and self._readiness.requires_tls):
            raise ProtocolError(f"answered NBD_OPT_GO with {reply.kind:#x}")
        self._leave()

    def _leave(self) -> None:
        """Waits a moment for the server to hang up: from then on we are not one of its clients that are counted."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            self._connection.settimeout(_DISCONNECT_SECONDS)
            while self._connection.recv(LONGEST_REPLY_BYTES):
                pass

    def _check_size(self, served: ExportInfo | None) -> None:
        if served is None:
            raise ProtocolError("did not say the size of the export")
        if served.size_bytes != self._readiness.size_bytes:
            raise WrongSize(served.size_bytes)

    def _receive(self, size: int) -> bytes:
        while len(self._received) < size:
            self._await_bytes()
            part = self._connection.recv(LONGEST_REPLY_BYTES)
            if not part:
                raise ConnectionResetError("closed the connection")
            self._received += part
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _await_bytes(self) -> None:
        while True:
            left = remaining(self._readiness.deadline)
            ready = {fd for fd, _ in self._poll.poll(min(left, _CHECK_SECONDS) * 1000)}
            if self._connection.fileno() in ready:
                return
            if ready:
                raise Ended
            if self._readiness.is_occupied():
                raise _Occupied
            self._readiness.server.send(signal.SIGCONT)  # it may have been stopped
            if not left:
                raise NoAnswer
