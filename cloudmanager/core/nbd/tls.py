"""A pre-shared key for each export (TLS-PSK): whoever has it may connect, to this export alone."""

import importlib.resources
import os
import secrets
from pathlib import Path

from cloudmanager.core.model import Credentials

USERNAME = "cloudmanager"
_KEY_BYTES = 32
_KEYS = "keys.psk"
_DH_PARAMETERS = "dh-params.pem"
"""The name that QEMU looks for. Without the file it makes parameters at each start, which takes up to 2 s."""
_PRIORITY = "NORMAL:-CIPHER-ALL:+AES-128-GCM"
"""GnuTLS would choose CHACHA20 for a pre-shared key, which moves a third of the bytes per second."""


def create_key(directory: Path) -> None:
    """Fills the directory that QEMU reads at each handshake; a key that is there is kept."""
    directory.mkdir(mode=0o700, exist_ok=True)
    parameters = importlib.resources.files(__package__).joinpath("ffdhe2048.pem").read_bytes()
    (directory / _DH_PARAMETERS).write_bytes(parameters)
    if not (directory / _KEYS).exists():
        _write_private(directory / _KEYS, f"{USERNAME}:{secrets.token_hex(_KEY_BYTES)}\n")


def read_key(directory: Path) -> Credentials | None:
    try:
        username, _, key = (directory / _KEYS).read_text().strip().partition(":")
    except FileNotFoundError:
        return None
    return Credentials(username, key)


def arguments(directory: str) -> list[str]:
    """For qemu-nbd, with the directory as it sees it."""
    options = f"tls-creds-psk,id=tls,endpoint=server,dir={directory.replace(',', ',,')},priority={_PRIORITY}"
    return ["--object", options, "--tls-creds", "tls"]


def _write_private(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    unfinished.rename(path)
