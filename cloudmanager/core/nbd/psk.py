"""A pre-shared key for each export (TLS-PSK): whoever has it may connect, to this export alone."""

import secrets
from pathlib import Path

from cloudmanager.core.model import Credentials
from cloudmanager.core.nbd.private import write_private

USERNAME = "cloudmanager"
KEYS = "keys.psk"
_KEY_BYTES = 32


def create_key(directory: Path) -> None:
    """A key that is there is kept."""
    if not (directory / KEYS).exists():
        write_private(directory / KEYS, f"{USERNAME}:{secrets.token_hex(_KEY_BYTES)}\n".encode())


def read_key(directory: Path) -> Credentials | None:
    try:
        username, _, key = (directory / KEYS).read_text().strip().partition(":")
    except FileNotFoundError:
        return None
    return Credentials(username, key)


def server_object(directory: str, priority: str) -> str:
    """For qemu-nbd, which reads the directory at each handshake."""
    return f"tls-creds-psk,id=tls,endpoint=server,dir={directory},priority={priority}"
