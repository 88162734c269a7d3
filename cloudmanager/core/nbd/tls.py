"""How the connections of one export are encrypted: what its server is given, and which kind it was given.

The settings may have changed since a server was started; its directory tells how it serves.
"""

import importlib.resources
import shutil
from pathlib import Path

from cloudmanager.core.model import Tls
from cloudmanager.core.nbd import psk, x509
from cloudmanager.core.nbd.private import write_private
from cloudmanager.core.nbd.psk import KEYS
from cloudmanager.core.settings import NbdSettings

_MARKS = {Tls.PSK: KEYS, Tls.X509: x509.MARK}
"""Without this file, the directory is not of that kind."""
_DH_PARAMETERS = "dh-params.pem"
"""The name that QEMU looks for. Without the file it makes parameters at each start, which takes up to 2 s."""
_PRIORITY = "NORMAL:-CIPHER-ALL:+AES-128-GCM"
"""GnuTLS would choose CHACHA20 for a pre-shared key, which moves a third of the bytes per second, and AES-256 for
certificates, which moves four fifths."""


def prepare(settings: NbdSettings, directory: Path) -> None:
    """Fills the directory that the server reads. A key that is there is kept; certificates are taken anew.

    Raises ServerFailed, OSError.
    """
    if kind(directory) is not Tls(settings.tls):
        shutil.rmtree(directory, ignore_errors=True)
    if settings.tls == "off":
        return
    directory.mkdir(mode=0o700, exist_ok=True)
    write_private(directory / _DH_PARAMETERS, _dh_parameters())
    if settings.certificates is None:
        psk.create_key(directory)
    else:
        x509.copy_certificates(settings.certificates, settings.advertised, directory)


def arguments(settings: NbdSettings, directory: str) -> list[str]:
    """For qemu-nbd, with the directory as it sees it."""
    make = {"psk": psk.server_object, "x509": x509.server_object}[settings.tls]
    return ["--object", make(directory.replace(",", ",,"), _PRIORITY), "--tls-creds", "tls"]


def kind(directory: Path) -> Tls:
    """How the server of that directory serves."""
    return next((each for each, mark in _MARKS.items() if (directory / mark).exists()), Tls.OFF)


def _dh_parameters() -> bytes:
    return importlib.resources.files(__package__).joinpath("ffdhe2048.pem").read_bytes()
