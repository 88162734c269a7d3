"""Which addresses a web server may send the client to.

A server decides where a redirection leads and, by DNS, to which address a name belongs. Neither may
make this machine ask its own services, its neighbours or a cloud's metadata server for what then goes onto a disk.
"""

import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import urlsplit

from cloudmanager.client.deploy.errors import UnsafeSource

_Address: TypeAlias = IPv4Address | IPv6Address

_NAT64 = ip_network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an IPv4 address."""
_PORTS = {"http": 80, "https": 443}


class AddressGuard:
    """For one URL that a person gave. Public addresses are allowed; others only on the server that was named.

    A named server that was at a public address first stays at public ones.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = _plain(parts.hostname or "")
        self._ports = {
            parts.port or _PORTS[parts.scheme],
            *((443,) if parts.scheme == "http" and not parts.port else ()),
        }
        self._was_public: bool | None = None

    def check(self, url: str) -> None:
        """Before a redirection is followed through a proxy, which makes the connection. Raises UnsafeSource.

        A name that only the proxy can resolve is left to it.
        """
        parts = urlsplit(url)
        host, port = _plain(parts.hostname or ""), parts.port or _PORTS[parts.scheme]
        with suppress(socket.gaierror):
            found = [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
            if not all(self._allows(host, port, each) for each in found):
                raise self._refusal(f"{host} ({', '.join(found)})")

    def dial(self, address: tuple[str, int], timeout: float) -> socket.socket:
        """As socket.create_connection, to addresses that are allowed. Raises UnsafeSource, OSError."""
        host, port = address
        refused: list[str] = []
        failure: OSError | None = None
        for family, kind, protocol, _name, found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            if not self._allows(host, port, str(found[0])):
                refused.append(str(found[0]))
                continue
            made = socket.socket(family, kind, protocol)
            try:
                made.settimeout(timeout)
                made.connect(found)
            except OSError as error:
                made.close()
                failure = error
            else:
                return made
        if failure is not None:
            raise failure
        raise self._refusal(f"{host} ({', '.join(refused)})")

    def _allows(self, host: str, port: int, found: str) -> bool:
        public = is_public(ip_address(found))
        if not self._is_named(_plain(host), port):
            return public
        if _is_literal(self._host):
            return True
        if self._was_public is None and not _is_link_local(ip_address(found)):
            self._was_public = public
        return public or self._was_public is False

    def _is_named(self, host: str, port: int) -> bool:
        return host == self._host and port in self._ports

    def _refusal(self, where: str) -> UnsafeSource:
        return UnsafeSource(
            f"The server of {self._host} leads to {where}, which is not a public address. If you trust that, give its "
            "URL instead."
        )


def is_public(address: _Address) -> bool:
    """Whether it belongs to the internet: no loopback, link-local, private, shared, multicast or reserved address.

    What an IPv6 address stands for decides: of one that is mapped, of 6to4, Teredo and NAT64 the IPv4 address in it.
    """
    if isinstance(address, IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _inner(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


def _is_link_local(address: _Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_link_local


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _plain(host: str) -> str:
    return host.rstrip(".").lower()
