"""Where an export is served, and what it takes to connect."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from cloudmanager.client.errors import InvalidSetup

if TYPE_CHECKING:
    from cloudmanager.transfer.libnbd import Address

VARIABLE = "CLOUDMANAGER_CERTIFICATES"
"""The environment variable that names the directory."""
FILES = ("ca-cert.pem", "client-cert.pem", "client-key.pem")
"""As QEMU and libnbd call them. A revocation list, ca-crl.pem, may be there too."""


def directory_of(address: "Address", environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where those for an address are: what it says itself, else what the environment says.

    None: nobody says it, or none are wanted, because there is a key or no TLS.

    Raises InvalidSetup when a file is missing there.
    """
    named = address.certificates or environment.get(VARIABLE)
    if not address.uri.startswith("nbds") or address.credentials is not None or not named:
        return None
    directory = Path(named).absolute()
    missing = [name for name in FILES if not os.access(directory / name, os.R_OK)]
    if missing:
        raise InvalidSetup(f"{directory} has no {missing[0]} that can be read: TLS needs {', '.join(FILES)} there.")
    return directory


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


_SCHEMES = ("nbd", "nbds", "nbd+unix", "nbds+unix")
_KEY_FILE = "tls-psk-file"
_CERTIFICATES = "tls-certificates"


def is_nbd_uri(text: str) -> bool:
    return text.partition("://")[0] in _SCHEMES and "://" in text


def address_of(uri: str, *, is_writable: bool = False) -> NbdAddress:
    """With the key from its file, or the directory of certificates, if the URI names one. Raises InvalidSetup.

    Only for URIs of the user's own: what they name is a file of this machine.
    """
    parts = urlsplit(uri)
    query = dict(parse_qsl(parts.query))
    key_file, certificates = query.pop(_KEY_FILE, None), query.pop(_CERTIFICATES, None)
    return NbdAddress(
        "?".join(filter(None, [uri.partition("?")[0], urlencode(query, safe="/")])),
        _credentials(Path(key_file), parts.username) if key_file else None,
        is_writable=is_writable,
        certificates=Path(certificates) if certificates else None,
    )


def as_written(address: NbdAddress) -> str:
    """For programs built on libnbd: with the directory of certificates, where one is used. A key is not named.

    Raises InvalidSetup.
    """
    directory = directory_of(address)
    return address.uri if directory is None else f"{address.uri}?{_CERTIFICATES}={quote(str(directory))}"


def _credentials(file: Path, username: str | None) -> Credentials:
    """Lines `username:key`, as GnuTLS' psktool writes them."""
    try:
        lines = file.read_text().split()
    except OSError as error:
        raise InvalidSetup(f"The key file {file} cannot be read: {error.strerror}.") from error
    for line in lines:
        name, colon, key = line.partition(":")
        if colon and username in (name, None):
            return Credentials(name, key)
    raise InvalidSetup(f"The key file {file} has no line for {username or 'anybody'}.")
