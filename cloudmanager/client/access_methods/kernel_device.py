"""A block device with the bytes of the disk: the kernel is the NBD client."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cloudmanager.client import sector_size
from cloudmanager.client.access_methods import nbd_driver
from cloudmanager.client.access_methods.endpoint import ProgramEndpoint
from cloudmanager.client.access_methods.errors import AccessFailed, AccessLost, NotPossibleHere
from cloudmanager.client.access_methods.nbd_driver import ConnectedDevice, ConnectionUnread, Nbd
from cloudmanager.client.address import NbdAddress
from cloudmanager.transfer import negotiation
from cloudmanager.transfer.negotiation import FLAG_CAN_MULTI_CONN, FLAG_READ_ONLY, ExportInfo, ProtocolError

CONNECTIONS = 2
"""An export serves 32 in all, unless its service is set up otherwise, and the next client would wait."""
READY_SECONDS = 60.0
REQUEST_SECONDS = 120
"""How long the driver waits for an answer before it drops the connection: no cloud disk is that slow."""
READ_AHEAD_BYTES = 4 * 2**20
"""So that one reader keeps several requests under way."""
_FURTHER_CONNECTION_SECONDS = 2.0
_ATTEMPTS = 2
"""With several connections."""
_NO_TLS = "the kernel does not support TLS, and nbd-client, which does, does not support TLS-PSK; use the file"
_NO_CERTIFICATES = (
    "the kernel speaks no TLS; use the file, or nbd-client with your certificates, which speaks it in the kernel's "
    "place (docs/tls.md shows how)"
)


@dataclass(frozen=True)
class DiskDevice:
    """A block device, with the sectors of the disk."""

    path: Path
    size_bytes: int
    is_writable: bool
    partitions: dict[int, Path]
    """First byte → the partition's own device."""
    logical_sector_bytes: int
    """Those that the disk's partition table was made for; else as its service says, else 512."""
    _nbd: Nbd = field(repr=False)

    @property
    def is_lost(self) -> bool:
        """Whether the connections ended. Reads then fail with EIO."""
        return self._nbd.is_lost


def obstacle(address: NbdAddress) -> str | None:
    """Why this machine or this address cannot be used. None: it can."""
    if ProgramEndpoint.of(address).is_tls:
        return _NO_TLS if address.credentials else _NO_CERTIFICATES
    return nbd_driver.obstacle()


@contextmanager
def device(
    address: NbdAddress,
    *,
    read_only: bool = False,
    connections: int = CONNECTIONS,
    ready_seconds: float = READY_SECONDS,
    request_seconds: int = REQUEST_SECONDS,
    read_ahead_bytes: int = READ_AHEAD_BYTES,
) -> Iterator[DiskDevice]:
    """The disk as a free /dev/nbdN, writable if the export is and `read_only` is not asked for.

    The device is connected as long as this process lives, and no longer. Of a disk that does not end with a sector, the
    last bytes are not seen.

    Raises NotPossibleHere, AccessFailed; AccessLost at the end if the connection was lost on the way.
    """
    if reason := obstacle(address):
        raise NotPossibleHere(reason)
    may_write = address.is_writable and not read_only
    plan = _ConnectionPlan(
        ProgramEndpoint.of(address),
        address.logical_sector_bytes,
        may_write,
        ready_seconds,
        request_seconds,
        read_ahead_bytes,
    )
    with ExitStack() as undo:
        found = _connected(undo, plan, connections)
        yield found
        if found.is_lost:
            raise AccessLost(f"the connection of {found.path} ended while it was in use")


@dataclass(frozen=True)
class _ConnectionPlan:
    """What is to be connected, and how."""

    endpoint: ProgramEndpoint
    logical_sector_bytes: int | None
    """As the disk's service says."""
    may_write: bool
    ready_seconds: float
    request_seconds: int
    read_ahead_bytes: int

    def connected(self, undo: ExitStack, connections: int) -> DiskDevice:
        """Raises AccessFailed; ConnectionUnread if the kernel does not listen on one of the connections."""
        with ExitStack() as attempt:
            served, sockets = _connect(attempt, self.endpoint, connections, self.ready_seconds)
            flags = served.flags | (0 if self.may_write else FLAG_READ_ONLY)
            sector_bytes = self._sector_bytes(sockets[0], served.size_bytes)
            attachment = ConnectedDevice(
                sockets, served.size_bytes, sector_bytes, flags, self.request_seconds, self.read_ahead_bytes
            )
            nbd = Nbd(attachment, self.ready_seconds)
            attempt.callback(nbd.disconnect)
            undo.push(attempt.pop_all())
        is_writable = not flags & FLAG_READ_ONLY
        return DiskDevice(nbd.path, served.size_bytes, is_writable, nbd.partitions(), sector_bytes, nbd)

    def _sector_bytes(self, connection: socket.socket, size_bytes: int) -> int:
        """Raises AccessFailed."""

        def read_some(offset: int, length: int) -> bytes:
            length = min(length, max(0, size_bytes - offset))
            if not length:
                return b""
            connection.sendall(negotiation.read_request(offset, length))
            return negotiation.read_answer(negotiation.receiver(connection), length)

        connection.settimeout(self.ready_seconds)
        try:
            return sector_size.chosen(read_some, self.logical_sector_bytes)
        except (OSError, ProtocolError) as error:
            raise AccessFailed(f"the NBD server cannot be read: {error}") from error
        finally:
            connection.settimeout(None)  # the kernel wants a blocking one


def _connected(undo: ExitStack, plan: _ConnectionPlan, connections: int) -> DiskDevice:
    """Tries again where the kernel does not listen on each connection; at last with one, on which it listens."""
    for _ in range(_ATTEMPTS):
        with suppress(ConnectionUnread):
            return plan.connected(undo, connections)
    return plan.connected(undo, 1)


def _connect(
    undo: ExitStack, endpoint: ProgramEndpoint, connections: int, timeout_seconds: float
) -> tuple[ExportInfo, list[socket.socket]]:
    """As many connections as the server takes; the first must come about."""
    try:
        connection, served = _negotiated(endpoint, timeout_seconds)
    except OSError as error:
        raise AccessFailed(f"the NBD server cannot be reached: {error}") from error
    sockets = [undo.enter_context(connection)]
    if served.flags & FLAG_CAN_MULTI_CONN:
        for _ in range(connections - 1):
            try:
                connection, _ = _negotiated(endpoint, _FURTHER_CONNECTION_SECONDS)
            except (OSError, AccessFailed):  # other clients have taken the connection slots
                break
            sockets.append(undo.enter_context(connection))
    return served, sockets


def negotiate(connection: socket.socket, export_name: str) -> ExportInfo:
    """Leaves the connection in the transmission phase. Raises AccessFailed, OSError."""
    receive = negotiation.receiver(connection)
    try:
        flags = negotiation.server_flags(receive(negotiation.GREETING_BYTES))
        connection.sendall(negotiation.client_flags(flags) + negotiation.go(export_name))
        reply = negotiation.read_reply(receive)
    except ProtocolError as error:
        raise AccessFailed(f"what answers at the address {error}") from error
    if not reply.is_acknowledged:
        raise AccessFailed(f"the NBD server refuses the disk: {reply.message or hex(reply.kind)}")
    if reply.served is None:
        raise AccessFailed("the NBD server did not say how large the disk is")
    return reply.served


def _negotiated(endpoint: ProgramEndpoint, timeout_seconds: float) -> tuple[socket.socket, ExportInfo]:
    connection = endpoint.connect(timeout_seconds)
    try:
        served = negotiate(connection, endpoint.export_name)
        connection.settimeout(None)  # the kernel wants a blocking one
    except BaseException:
        connection.close()
        raise
    return connection, served
