"""NBD URIs as people write them.

https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md
"""

from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from cloudmanager.client.address import Credentials, NbdAddress
from cloudmanager.client.deploy.errors import DeployError

_SCHEMES = ("nbd", "nbds", "nbd+unix", "nbds+unix")
_KEY_FILE = "tls-psk-file"


def is_nbd_uri(text: str) -> bool:
    return text.partition("://")[0] in _SCHEMES and "://" in text


def address_of(uri: str, *, is_writable: bool = False) -> NbdAddress:
    """With the key from its file, if the URI names one. Raises DeployError."""
    parts = urlsplit(uri)
    query = dict(parse_qsl(parts.query))
    key_file = query.pop(_KEY_FILE, None)
    if key_file is None:
        return NbdAddress(uri, is_writable=is_writable)
    credentials = _credentials(Path(key_file), parts.username)
    plain = urlunsplit(parts._replace(query=urlencode(query, safe="/")))
    return NbdAddress(plain, credentials, is_writable=is_writable)


def _credentials(file: Path, username: str | None) -> Credentials:
    """Lines `username:key`, as GnuTLS' psktool writes them."""
    try:
        lines = file.read_text().split()
    except OSError as error:
        raise DeployError(f"The key file {file} cannot be read: {error.strerror}.") from error
    for line in lines:
        name, colon, key = line.partition(":")
        if colon and username in (name, None):
            return Credentials(name, key)
    raise DeployError(f"The key file {file} has no line for {username or 'anybody'}.")
