"""An address taken apart: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md"""

import socket
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.ways.errors import WayFailed

DEFAULT_PORT = 10809
_SCHEMES = {"nbd", "nbds", "nbd+unix", "nbds+unix"}


@dataclass(frozen=True)
class Endpoint:
    """Where an NBD server listens, and under which name it serves the disk."""

    host: str
    port: int
    socket_path: str | None
    """Of a Unix socket: then there is no host."""
    export_name: str
    is_tls: bool

    @classmethod
    def of(cls, address: NbdAddress) -> Self:
        """Raises WayFailed for what is no NBD address."""
        parts = urlsplit(address.uri)
        if parts.scheme not in _SCHEMES:
            raise WayFailed(f"{address.uri} is not the address of an NBD server")
        path = parse_qs(parts.query).get("socket", [None])[0] if parts.scheme.endswith("+unix") else None
        name = unquote(parts.path.removeprefix("/"))
        is_tls = parts.scheme.startswith("nbds")
        return cls(parts.hostname or "localhost", parts.port or DEFAULT_PORT, path, name, is_tls)

    def connect(self, timeout_seconds: float) -> socket.socket:
        """A connected socket. Raises OSError."""
        if self.socket_path:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(timeout_seconds)
            connection.connect(self.socket_path)
            return connection
        connection = socket.create_connection((self.host, self.port), timeout_seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    def as_block_device(self, tls_object: str = "") -> dict[str, object]:
        """The options of QEMU's `nbd` driver."""
        server: dict[str, str] = {"type": "inet", "host": self.host, "port": str(self.port)}
        if self.socket_path:
            server = {"type": "unix", "path": self.socket_path}
        tls = {"tls-creds": tls_object} if self.is_tls else {}
        return {"driver": "nbd", "server": server, "export": self.export_name, **tls}
