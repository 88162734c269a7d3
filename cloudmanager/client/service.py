"""Which service a client talks to, and as whom."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.errors import InvalidSetup

DEFAULT_URL = "http://127.0.0.1:8600"
"""Where a service listens that is not configured otherwise."""
URL_VARIABLE = "CLOUDMANAGER_URL"
TOKEN_VARIABLE = "CLOUDMANAGER_TOKEN"  # noqa: S105 - the name of a variable
HOLDER_VARIABLE = "CLOUDMANAGER_HOLDER"


@dataclass(frozen=True)
class Service:
    """The address of a service and the token for it."""

    url: str
    """As it was given: for messages."""
    base_url: str
    socket_path: str | None
    token: str | None = field(repr=False)
    certificates: Path | None = None
    """For its exports, where these ask for one."""

    @classmethod
    def of(
        cls,
        url: str | None,
        token: str | None,
        certificates: Path | str | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> Self:
        """What is not given is taken from the environment. Raises InvalidSetup."""
        url = url or environment.get(URL_VARIABLE) or DEFAULT_URL
        checked = _checked(token or environment.get(TOKEN_VARIABLE))
        return cls(url, *_parse(url), checked, Path(certificates) if certificates else None)

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "cloudmanager-client"}
        return headers if self.token is None else {**headers, "Authorization": f"Bearer {self.token}"}


def default_holder(environment: Mapping[str, str] = os.environ) -> str:
    """`host:pid` of this process, unless the environment names another holder."""
    return environment.get(HOLDER_VARIABLE) or f"{os.uname().nodename}:{os.getpid()}"


def _parse(url: str) -> tuple[str, str | None]:
    """The base URL, and the path of a unix socket."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        if not path.startswith("/"):
            raise InvalidSetup(f"{url!r} lacks an absolute path: write unix:/run/cloudmanager.sock.")
        return "http://cloudmanager", path
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_usable = False
    if not is_usable or parts.query or parts.fragment:
        raise InvalidSetup(
            f"{url!r} is not the address of a service: write http://host:8600, https://host or "
            "unix:/run/cloudmanager.sock."
        )
    if parts.username or parts.password:
        raise InvalidSetup(f"Leave the user and password out of the address, and give the token as {TOKEN_VARIABLE}.")
    return url, None


def _checked(token: str | None) -> str | None:
    """A token that does not fit into a header would be shown in the error of the HTTP library."""
    token = (token or "").strip()
    if not all("!" <= char <= "~" for char in token):
        raise InvalidSetup("The token has spaces or characters beyond ASCII: copy it again from `cloudmanager token`.")
    return token or None


@dataclass(frozen=True)
class UploadEndpoint:
    """An export of a service."""

    service: Service
    export_id: str

    def path(self, what: str) -> str:
        """Of a route about it, below the service's address."""
        base = urlsplit(self.service.base_url).path.rstrip("/")
        return f"{base}/v1/exports/{quote(self.export_id, safe='')}/{what}"

    def protects_as_well_as(self, address: NbdAddress) -> bool:
        """Whether nobody on the way can read what the NBD server's TLS would hide."""
        parts = urlsplit(self.service.base_url)
        stays_here = self.service.socket_path is not None or _is_loopback(parts.hostname or "")
        return not address.uri.startswith("nbds") or parts.scheme == "https" or stays_here


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
