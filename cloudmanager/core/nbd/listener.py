"""The listening socket of an export: made by the daemon, handed down to qemu-nbd, taken back from it."""

import errno
import logging
import os
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.confined import Process
from cloudmanager.core.errors import PortsExhausted, ServerFailed
from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.core.nbd import process
from cloudmanager.core.settings import parse_ports

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Clients that may wait in the queue, as while a server is being replaced."""

SO_BINDTOIFINDEX = 62
"""Linux 5.1; Python has no name for it."""
NO_INTERFACE = 2**31 - 1

_SMALLEST_INTERVAL = 1
_PROBES = 4
"""Of keepalive, within the time after which a client has vanished."""

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to reach what listens everywhere


@dataclass(frozen=True)
class ListenAddress:
    """An address to listen on, resolved."""

    family: socket.AddressFamily
    host: str

    @classmethod
    def resolve(cls, host: str) -> "ListenAddress":
        """Raises ServerFailed for a name that no address is known of."""
        try:
            family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise ServerFailed(
                f"[nbd] listen = {host!r} is not an address of this machine: {error.strerror}.", retriable=True
            ) from error
        return cls(socket.AddressFamily(family), str(address[0]))

    def listen(self, port: int) -> socket.socket:
        """Raises OSError.

        TCP_NODELAY is inherited by accepted connections, and spares each handshake the 40 ms of a delayed
        acknowledgement. SO_REUSEADDR has to be set from the first bind on to let a later one succeed while
        connections of the former server linger.
        """
        listener = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind((self.host, port))
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener


class Ports:
    """Hands out the ports of the configured range in turn, so that one is not used again soon.

    It starts anywhere, so that a daemon that is restarted does not give out again what the last one gave out.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._ports = parse_ports(text)
        self._next = random.randrange(len(self._ports))  # noqa: S311 - spreads, keeps no secret
        self._lock = threading.Lock()

    def listen(self, endpoint: ListenAddress, port: int | None) -> socket.socket:
        """On this port, or on the next free one. Raises PortsExhausted, ResourcesExhausted, ServerFailed."""
        for candidate in self._candidates() if port is None else [port]:
            try:
                return endpoint.listen(candidate)
            except OSError as error:
                raise_exhausted(error)
                if error.errno != errno.EADDRINUSE:
                    raise ServerFailed(
                        f"Cannot listen on {endpoint.host} port {candidate}: {error.strerror}. Look at listen and "
                        "ports in [nbd]."
                    ) from error
        if port is not None:
            raise PortsExhausted(f"Port {port} of this export is used by another program; it is tried again.")
        raise PortsExhausted(
            f'All {len(self._ports)} ports are in use: release exports, or widen [nbd] ports = "{self._text}".'
        )

    def _candidates(self) -> Iterator[int]:
        for _ in self._ports:
            with self._lock:
                port = self._ports[self._next]
                self._next = (self._next + 1) % len(self._ports)
            yield port


def reachable_address(listener: socket.socket) -> tuple[str, int]:
    """Where this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    return reachable(host, port)


def reachable(host: str, port: int) -> tuple[str, int]:
    """Where this machine reaches what listens on an address."""
    return _WILDCARDS.get(host, host), port


def inode(listener: socket.socket) -> int:
    return os.fstat(listener.fileno()).st_ino


def give_up_vanished(listener: socket.socket, seconds: int) -> None:
    """Connections that it accepts from now on end when their client has not responded for this time.

    A client whose machine or network is gone never hangs up, and would hold its connection slot for ever. Linux hands
    all of these options on to accepted sockets. Keepalive probes an idle client; while something is unacknowledged
    there are no probes, and TCP_USER_TIMEOUT bounds that, and the probing too (tcp(7)). It also ends a client that
    lives, but has taken in nothing for so long of what it asked for, as one that was stopped.
    """
    interval = max(_SMALLEST_INTERVAL, seconds // (2 * _PROBES))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(_SMALLEST_INTERVAL, seconds // 2))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)


def refuse_clients(listener: socket.socket) -> None:
    """New clients get a reset at once; connected ones and those in the queue are not touched.

    The socket is bound to a network interface that does not exist, so that the kernel finds no listener for a new
    connection. The choice was measured: shutdown() makes qemu-nbd spin in accept, a packet filter lets clients hang
    until the socket is closed. As qemu-nbd holds the same socket, it lasts when the daemon ends.
    """
    with suppress(PermissionError):  # it is refused already: changing it a second time needs CAP_NET_RAW
        listener.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, NO_INTERFACE)


def take_back(server: Process, listener_inode: int) -> socket.socket | None:
    """The listener that a running server was given; None where this user may not take it."""
    for number, held in process.sockets(server.pid).items():
        if held == listener_inode:
            return _duplicate(server, number)
    return None


def _duplicate(server: Process, number: int) -> socket.socket | None:
    try:
        return socket.socket(fileno=server.take_descriptor(number))
    except PermissionError:
        log.warning("the listener of process %d cannot be taken back: its clients cannot be drained", server.pid)
        return None
    except OSError:
        return None


def listening_on(server: Process, port: int) -> int | None:
    """The inode of the socket with which a process listens on a port."""
    listeners = listening_inodes(port)
    return next((held for held in process.sockets(server.pid).values() if held in listeners), None)


def listening_inodes(port: int) -> set[int]:
    """The sockets that listen on a port, of any process.

    From /proc/net/tcp, whose fields are described in the kernel's proc_net_tcp.rst; 0A is the state LISTEN.
    """
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError), Path(table).open() as lines:
            next(lines)
            for line in lines:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(int(fields[9]))
    return found
