"""What keeps servers from using a set of certificates, or clients from trusting it."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloudmanager.core.certificates.files import (
    AUTHORITY,
    CERTIFICATE,
    KEY,
    REVOCATIONS,
    Certificates,
    Unreadable,
    extension,
)
from cloudmanager.core.private_directory import ancestor_flaws

_FOR_SERVERS = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
_RECIPE = "docs/tls.md shows how the files are made."


@dataclass(frozen=True)
class CertificateFault:
    """One thing that is wrong, and what to do."""

    seen: str
    advice: str
    is_of_time: bool = False
    """It is a matter of time (expiry), not of a changed file."""
    is_of_some: bool = False
    """Servers start with it, and serve clients that verify less."""

    def __str__(self) -> str:
        return f"{self.seen}. {self.advice}"


def check(directory: Path, host: str) -> tuple[Certificates | None, list[CertificateFault]]:
    """The certificates, where they can be read, and everything that is wrong with them."""
    try:
        certificates = Certificates.read(directory)
    except Unreadable as error:
        return None, [CertificateFault(str(error), f"[nbd] tls_certificates needs it; {_RECIPE}")]
    return certificates, list(faults(certificates, host))


def faults(certificates: Certificates, host: str, now: datetime | None = None) -> Iterator[CertificateFault]:
    """`host` is what clients connect to."""
    now = now or datetime.now(UTC)
    yield from _of_directories(certificates)
    yield from _of_key(certificates)
    yield from _of_authority(certificates)
    yield from _of_purpose(certificates)
    yield from _of_name(certificates, host)
    yield from _of_time(certificates, now)


def _of_directories(certificates: Certificates) -> Iterator[CertificateFault]:
    """A user who can replace the files decides whom the service trusts. A file may be a link, as certbot's are."""
    files = [certificates.directory / name for name in certificates.contents]
    leading = {parent for file in files for parent in (file.parent.resolve(), file.resolve().parent)}
    writable = {flaw.path for each in leading for flaw in ancestor_flaws(each, each, os.geteuid())}
    for path in (*sorted(writable), *files):
        if path.stat().st_mode & stat.S_IWOTH:
            yield CertificateFault(f"{path} can be written by everybody on this machine", f"chmod o-w {path}")


def _of_key(certificates: Certificates) -> Iterator[CertificateFault]:
    path = certificates.directory / KEY
    if certificates.is_key_open:
        yield CertificateFault(f"{path} can be read by everybody on this machine", f"chmod 600 {path}")
    try:
        key = load_pem_private_key(certificates.contents[KEY], password=None)
    except TypeError:
        yield CertificateFault(
            f"{path} wants a password", f"No service can type it; write it without: openssl pkey -in {path}"
        )
    except (ValueError, UnsupportedAlgorithm):
        yield CertificateFault(f"{path} is no private key in PEM form", _RECIPE)
    else:
        if _identity(key.public_key()) != _identity(certificates.certificate.public_key()):
            yield CertificateFault(f"{path} is not the key of {CERTIFICATE}", "Put two there that were made together.")


def _of_authority(certificates: Certificates) -> Iterator[CertificateFault]:
    path, issuer = certificates.directory / AUTHORITY, certificates.issuer
    if issuer is None:
        signer = certificates.certificate.issuer.rfc4514_string()
        yield CertificateFault(
            f"{path} has not signed {CERTIFICATE}", f"Put the certificate of its signer there ({signer})."
        )
    elif not _may_sign(issuer):
        advice = "Make it with basicConstraints CA:TRUE and, if it has a keyUsage, with keyCertSign."
        yield CertificateFault(f"{path} is not the certificate of an authority", advice)
    for missing in certificates.missing:
        name = missing.subject.rfc4514_string()
        shown = certificates.directory / CERTIFICATE
        yield CertificateFault(
            f"{shown} lacks the certificate of {name}, between it and the root: clients that have only the root "
            "refuse it",
            f"Append that certificate to {shown}, behind the server's own.",
            is_of_some=True,
        )
    revocations = certificates.revocations
    if revocations is not None and not any(_has_listed(each, revocations) for each in certificates.authorities):
        listed = certificates.directory / REVOCATIONS
        yield CertificateFault(f"{listed} is not from an authority of {AUTHORITY}", "Put its own list there, or none.")


def _of_purpose(certificates: Certificates) -> Iterator[CertificateFault]:
    path, certificate = certificates.directory / CERTIFICATE, certificates.certificate
    constraints = extension(certificate, x509.BasicConstraints)
    if constraints and constraints.ca:
        yield CertificateFault(
            f"{path} is the certificate of an authority", f"Servers need one of their own; {_RECIPE}"
        )
    purposes = extension(certificate, x509.ExtendedKeyUsage)
    if purposes and not _FOR_SERVERS.intersection(purposes):
        yield CertificateFault(f"{path} is not for servers", "Make it with extendedKeyUsage serverAuth.")
    usage = extension(certificate, x509.KeyUsage)
    if usage and not usage.digital_signature:
        yield CertificateFault(f"{path} may sign no handshake", "Make it with keyUsage digitalSignature.")


def _of_name(certificates: Certificates, host: str) -> Iterator[CertificateFault]:
    if not certificates.is_for(host):
        known = ", ".join(certificates.names) or "nobody"
        yield CertificateFault(
            f"{certificates.directory / CERTIFICATE} is for {known}, but clients connect to {host}",
            "Set [nbd] advertise to a name that it has, or give it this one (subjectAltName).",
        )


def _of_time(certificates: Certificates, now: datetime) -> Iterator[CertificateFault]:
    for name, certificate in ((CERTIFICATE, certificates.certificate), (AUTHORITY, certificates.issuer)):
        path = certificates.directory / name
        if certificate and now < certificate.not_valid_before_utc:
            since = certificate.not_valid_before_utc
            yield CertificateFault(
                f"{path} is valid from {since:%Y-%m-%d %H:%M} UTC on", "Wait, or set the clock right.", True
            )
        if certificate and now > certificate.not_valid_after_utc:
            until = certificate.not_valid_after_utc
            yield CertificateFault(f"{path} expired on {until:%Y-%m-%d %H:%M} UTC", "Put a renewed one there.", True)


def _may_sign(authority: x509.Certificate) -> bool:
    constraints = extension(authority, x509.BasicConstraints)
    usage = extension(authority, x509.KeyUsage)
    return bool(constraints and constraints.ca) and (usage is None or usage.key_cert_sign)


def _has_listed(authority: x509.Certificate, revocations: x509.CertificateRevocationList) -> bool:
    try:
        return revocations.is_signature_valid(authority.public_key())  # type: ignore[arg-type] # others raise TypeError
    except (TypeError, UnsupportedAlgorithm):
        return False


def _identity(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
