"""A service as a way to the bytes of a disk that it exports: besides NBD, for who is at the end of a slow link."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import quote, urlsplit

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.service import Service


@dataclass(frozen=True)
class Through:
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
