"""The start of an NBD conversation: the proof that a server has opened its disk and serves it.

https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

import select
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cloudmanager.confined.errors import Ended, NoAnswer
from cloudmanager.confined.process import Process, remaining

_GREETING = struct.Struct(">8s8sH")
_OPTION = struct.Struct(">8sII")
_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")

_NBDMAGIC = b"NBDMAGIC"
_IHAVEOPT = b"IHAVEOPT"
_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC = 0x25609513
_CLIENT_FLAGS = struct.pack(">I", 0b11)
"""Fixed newstyle, no zeroes."""
_OPT_GO = 7
_REP_ACK = 1
_REP_INFO = 3
_INFO_EXPORT = struct.Struct(">HQ")
"""Type 0, and the size in bytes."""
_REP_ERROR = 1 << 31
_REP_ERR_TLS_REQD = _REP_ERROR | 5
_CMD_DISC = 2
_LONGEST_REPLY = 65536

_LEAVE_SECONDS = 1.0
_LOOK_AROUND_SECONDS = 0.25
"""How often a server that has not answered is looked at: it may be serving others."""
_AGAIN_SECONDS = 0.02
"""After we were turned away."""


class ProtocolError(Exception):
    """Whatever answered, it was not a server of this export."""


class WrongSize(Exception):
    """It serves the export, but not in the size that its disk has."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self.size_bytes = size_bytes


class _Occupied(Exception):
    """Other clients have taken every place."""


class _TurnedAway(Exception):
    """The server hung up before it greeted us, as one does that has no place for us."""


@dataclass(frozen=True)
class Readiness:
    """What to wait for, and how long."""

    server: Process
    name: str
    size_bytes: int
    """That the export must have."""
    requires_tls: bool
    deadline: float
    """On the monotonic clock."""
    is_occupied: Callable[[], bool]
    """Whether clients hold every place. They were accepted, so the disk is open; our own turn would not come."""


def await_ready(address: tuple[str, int], readiness: Readiness) -> None:
    """Returns when the server serves the export. The listener queues, so one connection is enough, unless we are turned
    away because others have the places.

    Raises Ended, NoAnswer, ProtocolError, WrongSize. A server that requires TLS says no size.
    """
    while _is_turned_away(address, readiness):
        if readiness.is_occupied():
            return
        if readiness.server.wait(min(_AGAIN_SECONDS, remaining(readiness.deadline))):
            raise Ended
        if not remaining(readiness.deadline):
            raise NoAnswer


def _is_turned_away(address: tuple[str, int], readiness: Readiness) -> bool:
    """Whether the server has hung up before it greeted us. Raises as `await_ready`."""
    try:
        with socket.create_connection(address, timeout=remaining(readiness.deadline) or 0.001) as connection:
            _Conversation(connection, readiness).negotiate()
    except _Occupied:
        return False
    except _TurnedAway:
        return True
    except TimeoutError as error:
        raise NoAnswer from error
    except OSError as error:
        if readiness.server.wait(1):
            raise Ended from error
        raise ProtocolError(str(error)) from error
    return False


class _Conversation:
    def __init__(self, connection: socket.socket, readiness: Readiness) -> None:
        self._connection = connection
        self._readiness = readiness
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(readiness.server.fd, select.POLLIN)
        self._received = b""
        self._size_bytes: int | None = None

    def negotiate(self) -> None:
        try:
            greeting = self._receive(_GREETING.size)
        except ConnectionResetError:
            raise _TurnedAway from None
        magic, option_magic, _ = _GREETING.unpack(greeting)
        if (magic, option_magic) != (_NBDMAGIC, _IHAVEOPT):
            raise ProtocolError(f"greeted with {magic!r}")
        self._connection.sendall(_CLIENT_FLAGS + _go(self._readiness.name))
        kind = self._last_reply()
        if kind == _REP_ACK and not self._readiness.requires_tls:
            self._connection.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _CMD_DISC, 0, 0, 0))
            self._check_size()
        elif not (kind == _REP_ERR_TLS_REQD and self._readiness.requires_tls):
            raise ProtocolError(f"answered NBD_OPT_GO with {kind:#x}")
        self._leave()

    def _leave(self) -> None:
        """Waits a moment for the server to hang up: from then on we are not one of its clients that are counted."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            self._connection.settimeout(_LEAVE_SECONDS)
            while self._connection.recv(_LONGEST_REPLY):
                pass

    def _check_size(self) -> None:
        if self._size_bytes is None:
            raise ProtocolError("did not say the size of the export")
        if self._size_bytes != self._readiness.size_bytes:
            raise WrongSize(self._size_bytes)

    def _last_reply(self) -> int:
        """The kind of the reply that ends the option: an acknowledgement or an error."""
        while True:
            magic, _, kind, length = _REPLY.unpack(self._receive(_REPLY.size))
            if magic != _REPLY_MAGIC or length > _LONGEST_REPLY:
                raise ProtocolError("sent a malformed reply")
            payload = self._receive(length)
            if kind == _REP_INFO and len(payload) >= _INFO_EXPORT.size and not _INFO_EXPORT.unpack_from(payload)[0]:
                self._size_bytes = _INFO_EXPORT.unpack_from(payload)[1]
            if kind == _REP_ACK or kind & _REP_ERROR:
                return int(kind)

    def _receive(self, size: int) -> bytes:
        while len(self._received) < size:
            self._await_bytes()
            part = self._connection.recv(_LONGEST_REPLY)
            if not part:
                raise ConnectionResetError("closed the connection")
            self._received += part
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _await_bytes(self) -> None:
        while True:
            left = remaining(self._readiness.deadline)
            ready = {fd for fd, _ in self._poll.poll(min(left, _LOOK_AROUND_SECONDS) * 1000)}
            if self._connection.fileno() in ready:
                return
            if ready:
                raise Ended
            if self._readiness.is_occupied():
                raise _Occupied
            self._readiness.server.send(signal.SIGCONT)  # it may have been stopped
            if not left:
                raise NoAnswer


def _go(name: str) -> bytes:
    encoded = name.encode()
    payload = struct.pack(">I", len(encoded)) + encoded + struct.pack(">H", 0)
    return _OPTION.pack(_IHAVEOPT, _OPT_GO, len(payload)) + payload
