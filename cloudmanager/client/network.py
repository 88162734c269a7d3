"""How the client connects to HTTP servers: trusted authorities, proxies, and URLs without their secrets.

All HTTP of the client uses it: requests to a service, uploads to one, images behind URLs.
"""

import base64
import http.client
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from cloudmanager.client.errors import InvalidSetup

Dial: TypeAlias = Callable[[tuple[str, int], float], socket.socket]
"""Connects to a host and port within some seconds, as socket.create_connection does."""

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
)
"""For a Python whose OpenSSL was built for other paths than this machine has."""
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    """The value of Proxy-Authorization."""

    @property
    def name(self) -> str:
        """For messages: without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def tls_context() -> ssl.SSLContext:
    """Trusts this machine's authorities, or only those of SSL_CERT_FILE and SSL_CERT_DIR where these are set.

    Raises InvalidSetup when there are none.
    """
    return _tls_context(os.environ.get("SSL_CERT_FILE", ""), os.environ.get("SSL_CERT_DIR", ""))


def proxy_for(url: str) -> Proxy | None:
    """What http_proxy, https_proxy and all_proxy say, unless no_proxy excepts the host, in small letters or capitals.

    Loopback is never reached through a proxy: it would be the proxy's own. Raises InvalidSetup.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = getproxies_environment()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or is_loopback(host) or proxy_bypass(_host_and_port(parts.netloc), proxies):
        return None
    return _parsed(found)


def connection(url: str, seconds: float, dial: Dial | None = None) -> http.client.HTTPConnection:
    """Not connected yet. Requests on it name the path, with a proxy too. Raises InvalidSetup.

    With `dial` it connects by that and asks no proxy. Nothing in http.client takes a function to connect by.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    is_tls = parts.scheme == "https"
    if dial is not None:
        return _DialledConnection(host, port, seconds, dial, tls_context() if is_tls else None)
    proxy = proxy_for(url)
    if not is_tls:
        if proxy:
            return _ProxiedConnection(proxy, f"http://{_host_and_port(parts.netloc)}", seconds)
        return http.client.HTTPConnection(host, port, timeout=seconds)
    if proxy is None:
        return http.client.HTTPSConnection(host, port, timeout=seconds, context=tls_context())
    made = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=seconds, context=tls_context())
    made.set_tunnel(host, port, {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {})
    return made


def without_secrets(url: str) -> str:
    """The URL as messages and journals have it: a signature is in the query, a password before the host."""
    try:
        parts = urlsplit(url)
        return parts._replace(netloc=_host_and_port(parts.netloc), query="", fragment="").geturl()
    except ValueError:
        return "the URL"


def is_loopback(host: str) -> bool:
    """By its name or address; nothing is resolved."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return _is_short_loopback(name)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _is_short_loopback(name: str) -> bool:
    """127.1, 0x7f000001 and the like, as inet_aton(3) reads them."""
    try:
        return socket.inet_aton(name)[0] == 127
    except OSError:
        return False


class _DialledConnection(http.client.HTTPConnection):
    """To a server, by a function that connects; with a context, over TLS."""

    def __init__(self, host: str, port: int, seconds: float, dial: Dial, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port, timeout=seconds)
        self.default_port = _PORTS["https" if context else "http"]  # which the header Host leaves out
        self._seconds = seconds
        self._dial = dial
        self._tls = context

    def connect(self) -> None:
        made = self._dial((self.host, self.port), self._seconds)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._tls.wrap_socket(made, server_hostname=self.host) if self._tls else made
        except BaseException:
            made.close()
            raise


class _ProxiedConnection(http.client.HTTPConnection):
    """To a proxy that is asked for whole URLs (RFC 9112, 3.2.2)."""

    def __init__(self, proxy: Proxy, origin: str, seconds: float) -> None:
        super().__init__(proxy.host, proxy.port, timeout=seconds)
        self._origin = origin
        self._authorization = proxy.authorization

    def putrequest(self, method: str, url: str, skip_host: bool = False, skip_accept_encoding: bool = False) -> None:
        super().putrequest(method, f"{self._origin}{url}", skip_host, skip_accept_encoding)
        if self._authorization:
            self.putheader("Proxy-Authorization", self._authorization)


@cache
def _tls_context(file: str, directory: str) -> ssl.SSLContext:
    """Reading the certificates takes longer than a request."""
    if not (file or directory):
        return _machines_context()
    if file and not Path(file).is_file():
        raise InvalidSetup(f"SSL_CERT_FILE names {file}, which is no file: correct it, or unset it.")
    if directory and not any(Path(each).is_dir() for each in directory.split(os.pathsep)):
        raise InvalidSetup(f"SSL_CERT_DIR names {directory}, which is no directory: correct it, or unset it.")
    try:
        return ssl.create_default_context(cafile=file or None, capath=directory or None)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidSetup(f"SSL_CERT_FILE names {file}, which holds no certificates that can be read.") from error


def _machines_context() -> ssl.SSLContext:
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())):
        return ssl.create_default_context()
    bundle = next((path for path in _BUNDLES if Path(path).is_file()), None)
    if bundle is None:
        raise InvalidSetup(
            "This machine trusts no certificate authority: install the package ca-certificates, or name a file of "
            "certificates in SSL_CERT_FILE."
        )
    return ssl.create_default_context(cafile=bundle)


def _parsed(text: str) -> Proxy:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port or _PORTS["http"]
    except ValueError:
        raise InvalidSetup("The proxy that the environment names is no URL: write http://host:port.") from None
    if parts.scheme != "http" or not parts.hostname:
        raise InvalidSetup(
            f"The environment names a proxy of the kind {parts.scheme!r}: only http://host:port is supported. Set "
            "another one, or except the host in NO_PROXY."
        )
    if parts.username is None:
        return Proxy(parts.hostname, port)
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(parts.hostname, port, f"Basic {base64.b64encode(user.encode()).decode()}")


def _host_and_port(netloc: str) -> str:
    """Without a user."""
    return netloc.rpartition("@")[2]
