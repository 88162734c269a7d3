"""TLS credentials for connecting programs: in files, never on a command line."""

import re
from pathlib import Path

from cloudmanager.client.access_methods.errors import AccessFailed
from cloudmanager.client.address import FILES, VARIABLE, Credentials, NbdAddress, directory_of

OBJECT = "cloudmanager"
"""The name by which the block device options refer to it."""
_KEYS = "keys.psk"
"""The name that QEMU looks for in a directory."""


def tls_options(address: NbdAddress, directory: Path) -> tuple[str, str]:
    """QEMU's, which point to the key, which is put into a file of the directory, or to the certificates.

    Raises AccessFailed, InvalidSetup.
    """
    if address.credentials is not None:
        keys = _key_file(address.credentials, directory)
        return _object("tls-creds-psk", {"dir": str(keys.parent), "username": address.credentials.username})
    return _object("tls-creds-x509", {"dir": str(_certificates(address))})


def nbdkit_parameters(address: NbdAddress, directory: Path) -> list[str]:
    """Those of nbdkit's plugin `nbd`, which do the same. Raises AccessFailed, InvalidSetup."""
    if address.credentials is not None:
        keys = _key_file(address.credentials, directory)
        return ["tls=require", f"tls-psk={keys}", f"tls-username={address.credentials.username}"]
    return ["tls=require", f"tls-certificates={_certificates(address)}"]


def _certificates(address: NbdAddress) -> Path:
    if (certificates := directory_of(address)) is not None:
        return certificates
    raise AccessFailed(
        f"{address.uri} needs a key, and the address has none, or a certificate: set {VARIABLE} to a directory with "
        f"{', '.join(FILES)}"
    )


def _key_file(credentials: Credentials, directory: Path) -> Path:
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", credentials.key) or re.search(r"[\s:]", credentials.username):
        raise AccessFailed("the key of the address is malformed")
    keys = directory / _KEYS
    keys.touch(mode=0o600, exist_ok=False)
    keys.write_text(f"{credentials.username}:{credentials.key}\n")
    return keys


def _object(kind: str, fields: dict[str, str]) -> tuple[str, str]:
    properties = {"id": OBJECT, "endpoint": "client", **fields}
    written = ",".join(f"{name}={value.replace(',', ',,')}" for name, value in properties.items())
    return "--object", f"{kind},{written}"
