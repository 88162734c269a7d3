"""The start of an NBD conversation, encoded and read once for all who hold one: fixed newstyle, NBD_OPT_GO, STARTTLS.

https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md

Nothing here touches a socket: a caller has bytes to send, and hands in how to receive an exact number of them.
"""

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Receive: TypeAlias = Callable[[int], bytes]
"""Returns exactly so many bytes."""

_GREETING = struct.Struct(">8s8sH")
GREETING_BYTES = _GREETING.size
_CLIENT_FLAGS = struct.Struct(">I")
CLIENT_FLAGS_BYTES = _CLIENT_FLAGS.size
_OPTION = struct.Struct(">8sII")
_REPLY = struct.Struct(">QIII")
_INFO_EXPORT = struct.Struct(">HQH")
_REQUEST = struct.Struct(">IHHQQI")
_SIMPLE_REPLY = struct.Struct(">IIQ")

_NBDMAGIC, _IHAVEOPT = b"NBDMAGIC", b"IHAVEOPT"
_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC, _SIMPLE_REPLY_MAGIC = 0x25609513, 0x67446698
_KNOWN_FLAGS = 0b11
"""Fixed newstyle, no zeroes."""
_OPT_STARTTLS, _OPT_GO = 5, 7
_REP_ACK, _REP_INFO = 1, 3
_REP_ERROR = 1 << 31
_REP_ERR_TLS_REQD = _REP_ERROR | 5
_CMD_READ, _CMD_DISC = 0, 2
LONGEST_REPLY_BYTES = 65536

FLAG_READ_ONLY = 1 << 1
FLAG_CAN_MULTI_CONN = 1 << 8
"""Transmission flags."""


class ProtocolError(Exception):
    """What answers does not follow the protocol. The message continues "the server …"."""


@dataclass(frozen=True)
class ExportInfo:
    """What a server says of an export."""

    size_bytes: int
    flags: int
    """Transmission flags, as the protocol numbers them."""


@dataclass(frozen=True)
class OptionReply:
    """How a server has answered an option."""

    kind: int
    """NBD_REP_ACK or an error."""
    served: ExportInfo | None = None
    message: str = ""
    """Of an error."""

    @property
    def is_acknowledged(self) -> bool:
        return self.kind == _REP_ACK

    @property
    def requires_tls(self) -> bool:
        return self.kind == _REP_ERR_TLS_REQD


def server_flags(greeting: bytes) -> int:
    """The handshake flags of a greeting of `GREETING_BYTES`. Raises ProtocolError."""
    magic, option_magic, flags = _GREETING.unpack(greeting)
    if (magic, option_magic) != (_NBDMAGIC, _IHAVEOPT):
        raise ProtocolError(f"greets with {magic + option_magic!r}, not as an NBD server of the newstyle protocol")
    return int(flags)


def client_flags(offered: int = _KNOWN_FLAGS) -> bytes:
    """The answer to a greeting: those of the server's flags that we know."""
    return _CLIENT_FLAGS.pack(offered & _KNOWN_FLAGS)


def go(export_name: str) -> bytes:
    """NBD_OPT_GO: use this export, and say what it is."""
    name = export_name.encode()
    return _option(_OPT_GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))


def start_tls() -> bytes:
    """NBD_OPT_STARTTLS."""
    return _option(_OPT_STARTTLS)


def read_reply(receive: Receive) -> OptionReply:
    """What ends the option: an acknowledgement or an error, with what was said before it. Raises ProtocolError."""
    served = None
    while True:
        magic, _, kind, length = _REPLY.unpack(receive(_REPLY.size))
        if magic != _REPLY_MAGIC or length > LONGEST_REPLY_BYTES:
            raise ProtocolError("sent a malformed reply")
        payload = receive(length)
        if kind == _REP_INFO and len(payload) >= _INFO_EXPORT.size and not _INFO_EXPORT.unpack_from(payload)[0]:
            served = ExportInfo(*_INFO_EXPORT.unpack_from(payload)[1:])
        if kind == _REP_ACK or kind & _REP_ERROR:
            return OptionReply(kind, served, payload.decode(errors="replace"))


def read_request(offset: int, length: int) -> bytes:
    """NBD_CMD_READ, for a connection in the transmission phase."""
    return _REQUEST.pack(_REQUEST_MAGIC, 0, _CMD_READ, 0, offset, length)


def disconnect_request() -> bytes:
    """NBD_CMD_DISC."""
    return _REQUEST.pack(_REQUEST_MAGIC, 0, _CMD_DISC, 0, 0, 0)


def read_answer(receive: Receive, length: int) -> bytes:
    """What was read; empty where the server answers with an error. Raises ProtocolError."""
    magic, error, _ = _SIMPLE_REPLY.unpack(receive(_SIMPLE_REPLY.size))
    if magic != _SIMPLE_REPLY_MAGIC:
        raise ProtocolError("sent a malformed reply")
    return b"" if error else receive(length)


def receiver(connection: socket.socket) -> Receive:
    """Receives from a blocking socket. Raises OSError, ConnectionResetError when the server hangs up."""

    def receive(size: int) -> bytes:
        received = b""
        while len(received) < size:
            part = connection.recv(size - len(received))
            if not part:
                raise ConnectionResetError("the NBD server closed the connection")
            received += part
        return received

    return receive


def _option(number: int, payload: bytes = b"") -> bytes:
    return _OPTION.pack(_IHAVEOPT, number, len(payload)) + payload
