"""What programs of QEMU need for TLS: in files, never on a command line."""

import re
from pathlib import Path

from cloudmanager.client.access_methods.errors import AccessFailed
from cloudmanager.client.address import FILES, VARIABLE, Credentials, NbdAddress, directory_of

OBJECT = "cloudmanager"
"""By this name the block device options refer to it."""
_KEYS = "keys.psk"
"""The name that QEMU looks for in a directory."""


def tls_options(address: NbdAddress, directory: Path) -> tuple[str, str]:
    """The options that point to the key, which is put into a file of the directory, or to the certificates.

    Raises AccessFailed, InvalidSetup.
    """
    if address.credentials is not None:
        return _key(address.credentials, directory)
    if (certificates := directory_of(address)) is not None:
        return _object("tls-creds-x509", {"dir": str(certificates)})
    raise AccessFailed(
        f"{address.uri} needs a key, and the address has none, or a certificate: set {VARIABLE} to a directory with "
        f"{', '.join(FILES)}"
    )


def _key(credentials: Credentials, directory: Path) -> tuple[str, str]:
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", credentials.key) or re.search(r"[\s:]", credentials.username):
        raise AccessFailed("the key of the address is malformed")
    keys = directory / _KEYS
    keys.touch(mode=0o600, exist_ok=False)
    keys.write_text(f"{credentials.username}:{credentials.key}\n")
    return _object("tls-creds-psk", {"dir": str(directory), "username": credentials.username})


def _object(kind: str, fields: dict[str, str]) -> tuple[str, str]:
    words = {"id": OBJECT, "endpoint": "client", **fields}
    written = ",".join(f"{name}={value.replace(',', ',,')}" for name, value in words.items())
    return "--object", f"{kind},{written}"
