"""Certificates (X.509): whoever has one of the authority's may connect, to any export."""

from pathlib import Path

from cloudmanager.core.errors import ServerFailed
from cloudmanager.core.nbd.private import write_private

MARK = "server-cert.pem"
"""A file that every server with certificates has, under the name that QEMU looks for."""


def copy_certificates(source: Path, host: str, directory: Path) -> None:
    """What was checked is what the server reads, in its own directory, whoever owns the source.

    Raises ServerFailed (retriable: files are renewed one by one), OSError.
    """
    from cloudmanager.core import certificates  # noqa: PLC0415 - 9 MiB that few services need
    from cloudmanager.core.certificates.files import REVOCATIONS  # noqa: PLC0415

    found, faults = certificates.check(source, host)
    if found is None or faults:
        raise ServerFailed(f"TLS with certificates: {' '.join(map(str, faults))}", retriable=True)
    for name, content in found.contents.items():
        write_private(directory / name, content)
    if found.revocations is None:
        (directory / REVOCATIONS).unlink(missing_ok=True)


def server_object(directory: str, priority: str) -> str:
    """For qemu-nbd. A client without a certificate of the authority is refused."""
    return f"tls-creds-x509,id=tls,endpoint=server,dir={directory},verify-peer=yes,priority={priority}"
