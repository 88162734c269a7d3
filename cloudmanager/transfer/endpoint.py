"""An NBD address taken apart: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md"""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

DEFAULT_PORT = 10809
_SCHEMES = {"nbd", "nbds", "nbd+unix", "nbds+unix"}


@dataclass(frozen=True)
class Endpoint:
    """Where an NBD server listens, and under which name it serves the disk."""

    host: str
    """A name or an address; that of a link with its zone, as in `fe80::1%eth0`."""
    port: int
    socket_path: str | None
    """Of a Unix socket: then there is no host."""
    export_name: str
    is_tls: bool

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Raises ValueError for what is no NBD address."""
        parts = urlsplit(uri)
        if parts.scheme not in _SCHEMES:
            raise ValueError(f"{uri} is not the address of an NBD server")
        path = parse_qs(parts.query).get("socket", [None])[0] if parts.scheme.endswith("+unix") else None
        name = unquote(parts.path.removeprefix("/"))
        is_tls = parts.scheme.startswith("nbds")
        return cls(_host(parts.hostname), parts.port or DEFAULT_PORT, path, name, is_tls)

    @property
    def is_ipv6_literal(self) -> bool:
        """An address written as one, which is no name that TLS could ask a server for (RFC 6066, section 3)."""
        return self.socket_path is None and ":" in self.host

    @property
    def certified_host(self) -> str:
        """What the certificate of a server at this host must name: a zone means something on this machine only."""
        return self.host.partition("%")[0]

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


def written(host: str) -> str:
    """A host as it stands in a URI: an IPv6 address in brackets, its zone escaped (RFC 6874)."""
    if ":" not in host:
        return host
    address, percent, zone = host.partition("%")
    return f"[{address}{'%25' if percent else ''}{zone}]"


def is_link_local(host: str) -> bool:
    """An IPv6 address that needs a zone, which every machine names in its own way."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return isinstance(address, ipaddress.IPv6Address) and address.is_link_local


def _host(hostname: str | None) -> str:
    address, percent, zone = (hostname or "localhost").partition("%")
    return f"{address}{percent}{unquote(zone.removeprefix('25'))}" if percent else address
