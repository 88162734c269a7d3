"""How the connections of one export are encrypted: what its server is given, and which kind it was given.

The settings may have changed since a server was started; its directory shows how it serves.
"""

import importlib.resources
import secrets
import shutil
from pathlib import Path

from cloudmanager.core.errors import ServerFailed
from cloudmanager.core.model import Credentials, Tls
from cloudmanager.core.settings import NbdSettings
from cloudmanager.linux.files import write_whole

MARK = "server-cert.pem"
"""A file that every server with certificates has, under the name that QEMU looks for."""


def copy_certificates(source: Path, host: str, directory: Path) -> None:
    """Copies what was checked into the server's own directory, so that it reads nothing else.

    Raises ServerFailed (retriable: files are renewed one by one), OSError.
    """
    from cloudmanager.core import certificates  # noqa: PLC0415 - 9 MiB that few services need
    from cloudmanager.core.certificates.files import REVOCATIONS  # noqa: PLC0415

    found, faults = certificates.check(source, host)
    if found is None or faults:
        raise ServerFailed(f"TLS with certificates: {' '.join(map(str, faults))}", retriable=True)
    for name, content in found.contents.items():
        write_whole(directory / name, content, is_durable=False)
    if found.revocations is None:
        (directory / REVOCATIONS).unlink(missing_ok=True)


def x509_object(directory: str, priority: str) -> str:
    """For qemu-nbd. A client without a certificate of the authority is refused."""
    return f"tls-creds-x509,id=tls,endpoint=server,dir={directory},verify-peer=yes,priority={priority}"


USERNAME = "cloudmanager"
KEYS = "keys.psk"
_KEY_BYTES = 32


def create_key(directory: Path) -> None:
    """A key that is there is kept."""
    if not (directory / KEYS).exists():
        write_whole(directory / KEYS, f"{USERNAME}:{secrets.token_hex(_KEY_BYTES)}\n".encode())


def read_key(directory: Path) -> Credentials | None:
    try:
        username, _, key = (directory / KEYS).read_text().strip().partition(":")
    except FileNotFoundError:
        return None
    return Credentials(username, key)


def psk_object(directory: str, priority: str) -> str:
    """For qemu-nbd, which reads the directory at each handshake."""
    return f"tls-creds-psk,id=tls,endpoint=server,dir={directory},priority={priority}"


_MARKS = {Tls.PSK: KEYS, Tls.X509: MARK}
"""The file by which a directory of this kind is recognised."""
_DH_PARAMETERS = "dh-params.pem"
"""The name that QEMU looks for. Without the file it makes parameters at each start, which takes up to 2 s."""
_PRIORITY = "NORMAL:-CIPHER-ALL:+AES-128-GCM"
"""GnuTLS would choose CHACHA20 for a pre-shared key, which moves a third of the bytes per second, and AES-256 for
certificates, which moves four fifths."""
_PRIORITY_FILE = "gnutls.conf"
_OTHER_CIPHERS = """
    CHACHA20-POLY1305 AES-256-GCM AES-256-CCM AES-256-CCM-8 AES-128-CCM AES-128-CCM-8 AES-256-CBC AES-128-CBC 3DES-CBC
    CAMELLIA-256-GCM CAMELLIA-128-GCM CAMELLIA-256-CBC CAMELLIA-128-CBC ARCFOUR-128
"""
"""The same for a program that takes no priority: GnuTLS reads what else it knows not to use from a file. It passes over
names that it does not know. https://www.gnutls.org/manual/html_node/System_002dwide-configuration-of-the-library.html
"""


def prepare(settings: NbdSettings, directory: Path) -> None:
    """Fills the directory that the server reads. A key that is there is kept; certificates are taken anew.

    Raises ServerFailed, OSError.
    """
    if kind(directory) is not Tls(settings.tls):
        shutil.rmtree(directory, ignore_errors=True)
    if settings.tls == "off":
        return
    directory.mkdir(mode=0o700, exist_ok=True)
    write_whole(directory / _DH_PARAMETERS, _dh_parameters(), is_durable=False)
    write_whole(directory / _PRIORITY_FILE, _priority_file(), is_durable=False)
    if settings.certificates is None:
        create_key(directory)
    else:
        copy_certificates(settings.certificates, settings.advertised, directory)


def qemu_arguments(settings: NbdSettings, directory: str) -> list[str]:
    """For qemu-nbd, with the directory as it sees it."""
    make = {"psk": psk_object, "x509": x509_object}[settings.tls]
    return ["--object", make(directory.replace(",", ",,"), _PRIORITY), "--tls-creds", "tls"]


def nbdkit_arguments(settings: NbdSettings, directory: str) -> list[str]:
    """For nbdkit, which reads keys at each handshake and certificates when it starts."""
    if settings.certificates is None:
        return ["--tls=require", f"--tls-psk={directory}/{KEYS}"]
    return ["--tls=require", f"--tls-certificates={directory}", "--tls-verify-peer"]


def gnutls_environment(directory: str) -> dict[str, str]:
    """For a program built on GnuTLS that takes no priority."""
    return {"GNUTLS_SYSTEM_PRIORITY_FILE": f"{directory}/{_PRIORITY_FILE}"}


def kind(directory: Path) -> Tls:
    """How the server of that directory serves."""
    return next((each for each, mark in _MARKS.items() if (directory / mark).exists()), Tls.OFF)


def _priority_file() -> bytes:
    lines = [f"tls-disabled-cipher = {cipher}" for cipher in _OTHER_CIPHERS.split()]
    return "\n".join(["[overrides]", *lines, ""]).encode()


def _dh_parameters() -> bytes:
    return importlib.resources.files(__package__).joinpath("ffdhe2048.pem").read_bytes()
