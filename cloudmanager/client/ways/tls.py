"""A TLS pre-shared key for programs of QEMU: in a file, never on a command line."""

import re
from pathlib import Path

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.ways.errors import WayFailed

OBJECT = "cloudmanager"
"""By this name the block device options refer to the key."""
_KEYS = "keys.psk"
"""The name that QEMU looks for in a directory."""


def key_options(address: NbdAddress, directory: Path) -> tuple[str, str]:
    """Puts the key into a file of the directory, for us alone; returns the options that point there."""
    credentials = address.credentials
    if credentials is None:
        raise WayFailed(f"{address.uri} needs a key, and the address has none")
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", credentials.key) or re.search(r"[\s:]", credentials.username):
        raise WayFailed("the key of the address is malformed")
    keys = directory / _KEYS
    keys.touch(mode=0o600, exist_ok=False)
    keys.write_text(f"{credentials.username}:{credentials.key}\n")
    fields = {"id": OBJECT, "endpoint": "client", "dir": str(directory), "username": credentials.username}
    written = ",".join(f"{name}={value.replace(',', ',,')}" for name, value in fields.items())
    return "--object", f"tls-creds-psk,{written}"
