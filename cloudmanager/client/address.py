"""Where an export is served, and what it takes to connect."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Credentials:
    """A TLS pre-shared key for one export. Never logged."""

    username: str
    key: str = field(repr=False)
    """In hexadecimal."""
    type: str = "tls-psk"


@dataclass(frozen=True)
class NbdAddress:
    """An NBD server's export, as a client connects to it."""

    uri: str
    """`nbd://host:port/name`, or `nbds://` with TLS (the NBD URI specification of the NetworkBlockDevice project)."""
    credentials: Credentials | None = None
    size_bytes: int | None = None
    """None: not known before connecting."""
    is_writable: bool = False
    certificates: Path | None = None
    """A directory with ca-cert.pem, client-cert.pem and client-key.pem, for a server that asks for a certificate. None:
    that of the environment variable CLOUDMANAGER_CERTIFICATES, if it is set."""
    logical_sector_bytes: int | None = None
    """Of the disk, as its service says. None: not known."""
