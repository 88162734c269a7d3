"""Who may call: the bearer token, and the defence against browser pages.

A service on loopback needs no token, but every page that a user of this machine opens could call it: by a form or a
script of another site (cross-site request forgery), or by a host name that its owner points to 127.0.0.1 (DNS
rebinding). So without a token only names of this machine are answered, and a foreign Origin never is.
"""

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from starlette.datastructures import Headers

from cloudmanager.api.errors import HostRefused, OriginRefused, Unauthorized
from cloudmanager.core.settings import ServerSettings, is_loopback, parse_listen

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Answered without a token: monitoring needs no rights. `knows` says whether a request has a token."""


@dataclass(frozen=True)
class CallerGuard:
    """Lets a request pass, or raises."""

    token_sha256: tuple[str, ...]
    listen_host: str | None = None
    """The only host name besides those of loopback that is answered. None answers every name."""

    @classmethod
    def of(cls, settings: ServerSettings) -> Self:
        listen = parse_listen(settings.listen)
        if settings.token_sha256 or isinstance(listen, Path):
            return cls(settings.token_sha256)
        return cls((), listen[0].lower())

    def check(self, path: str, headers: Headers) -> None:
        """Raises HostRefused, OriginRefused, Unauthorized."""
        if self.listen_host is not None:
            self._check_host(headers)
        _check_origin(headers)
        if self.token_sha256 and path not in OPEN_PATHS:
            self._check_token(headers)

    def knows(self, headers: Headers) -> bool:
        """Whether the caller may see what is behind the token."""
        try:
            if self.token_sha256:
                self._check_token(headers)
        except Unauthorized:
            return False
        return True

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        name = _host_name(hosts[0]) if len(hosts) == 1 else ""
        if name != self.listen_host and not is_loopback(name):
            raise HostRefused(
                "Without a token the service answers to the names of this machine only: "
                f"call it as http://{self.listen_host} or http://localhost, or configure a token "
                "(`cloudmanager token` makes one)."
            )

    def _check_token(self, headers: Headers) -> None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized("Send the token as `Authorization: Bearer TOKEN`. `cloudmanager token` makes one.")
        digest = hashlib.sha256(token.strip().encode("latin-1")).hexdigest()
        matches = [hmac.compare_digest(digest, known) for known in self.token_sha256]
        if not any(matches):
            raise Unauthorized("The token is not one of server.token_sha256 in the configuration.")


def _host_name(host: str) -> str:
    """`"[::1]:8600"` gives `"::1"`."""
    if host.startswith("["):
        name, bracket, _ = host[1:].partition("]")
        return name.lower() if bracket else ""
    return host.partition(":")[0].lower()


def _check_origin(headers: Headers) -> None:
    """A browser adds Origin to whatever is not a plain GET; other clients leave it out."""
    origin = headers.get("origin")
    if origin is None:
        return
    scheme, _, authority = origin.partition("://")
    if scheme not in ("http", "https") or authority != headers.get("host"):
        raise OriginRefused(
            "The request comes from a web page of another origin. Use a client on its own, or a page that the service "
            "itself serves."
        )
