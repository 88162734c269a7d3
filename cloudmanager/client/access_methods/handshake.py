"""The start of an NBD conversation, before the kernel takes the connection over.

https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

import socket
import struct
from dataclasses import dataclass

from cloudmanager.client.access_methods.errors import AccessFailed

_GREETING = struct.Struct(">8s8sH")
_OPTION = struct.Struct(">8sII")
_REPLY = struct.Struct(">QIII")
_EXPORT_INFO = struct.Struct(">HQH")

_REPLY_MAGIC = 0x3E889045565A9
_OPT_GO = 7
_REP_ACK = 1
_REP_INFO = 3
_REP_ERROR = 1 << 31
_INFO_EXPORT = 0
_CLIENT_FLAGS = struct.pack(">I", 0b11)
"""Fixed newstyle, no zeroes."""
_LONGEST_REPLY = 65536

_REQUEST = struct.Struct(">IHHQQI")
_SIMPLE_REPLY = struct.Struct(">IIQ")
_REQUEST_MAGIC = 0x25609513
_SIMPLE_REPLY_MAGIC = 0x67446698

FLAG_READ_ONLY = 1 << 1
FLAG_CAN_MULTI_CONN = 1 << 8


@dataclass(frozen=True)
class Served:
    """What the server says of the disk."""

    size_bytes: int
    flags: int
    """Transmission flags, as the protocol numbers them."""


def negotiate(connection: socket.socket, export_name: str) -> Served:
    """Leaves the connection in the transmission phase. Raises AccessFailed, OSError."""
    magic, option_magic, _ = _GREETING.unpack(_receive(connection, _GREETING.size))
    if (magic, option_magic) != (b"NBDMAGIC", b"IHAVEOPT"):
        raise AccessFailed("what answers at the address is no NBD server of our days")
    connection.sendall(_CLIENT_FLAGS + _go(export_name))
    return _answer(connection)


def read(connection: socket.socket, offset: int, length: int) -> bytes:
    """Of a negotiated connection that nobody else uses; the range is on the disk. Empty where the disk is damaged.

    Raises AccessFailed, OSError.
    """
    connection.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, 0, 0, offset, length))
    magic, error, _ = _SIMPLE_REPLY.unpack(_receive(connection, _SIMPLE_REPLY.size))
    if magic != _SIMPLE_REPLY_MAGIC:
        raise AccessFailed("the NBD server sent a malformed reply")
    return b"" if error else _receive(connection, length)


def _answer(connection: socket.socket) -> Served:
    served = None
    while True:
        magic, _, kind, length = _REPLY.unpack(_receive(connection, _REPLY.size))
        if magic != _REPLY_MAGIC or length > _LONGEST_REPLY:
            raise AccessFailed("the NBD server sent a malformed reply")
        body = _receive(connection, length)
        if kind & _REP_ERROR:
            raise AccessFailed(f"the NBD server refuses the disk: {body.decode(errors='replace') or hex(kind)}")
        if kind == _REP_INFO and body[:2] == struct.pack(">H", _INFO_EXPORT):
            _, size, flags = _EXPORT_INFO.unpack(body)
            served = Served(size, flags)
        if kind == _REP_ACK:
            if served is None:
                raise AccessFailed("the NBD server did not say how large the disk is")
            return served


def _go(name: str) -> bytes:
    encoded = name.encode()
    payload = struct.pack(">I", len(encoded)) + encoded + struct.pack(">H", 0)
    return _OPTION.pack(b"IHAVEOPT", _OPT_GO, len(payload)) + payload


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionResetError("the NBD server closed the connection")
        received += part
    return received
