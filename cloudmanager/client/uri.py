"""NBD URIs as people write them.

https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md
"""

from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from cloudmanager.client.address import Credentials, NbdAddress
from cloudmanager.client.certificates import directory_of
from cloudmanager.client.errors import InvalidSetup

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
