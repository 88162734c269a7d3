"""A directory of certificates, under the names that QEMU looks for.

https://www.qemu.org/docs/master/system/tls.html
"""

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

AUTHORITY = "ca-cert.pem"
CERTIFICATE = "server-cert.pem"
KEY = "server-key.pem"
REVOCATIONS = "ca-crl.pem"

_REQUIRED = (AUTHORITY, CERTIFICATE, KEY)
_LONGEST = 1024 * 1024
_FOR_OTHERS = 0o007

Parsed = TypeVar("Parsed")
Extension = TypeVar("Extension", bound=x509.ExtensionType)


class Unreadable(Exception):
    """A file is missing, or is not what its name says."""


@dataclass(frozen=True)
class Certificates:
    """The files as they were at one moment: what was checked is what is served."""

    directory: Path
    contents: Mapping[str, bytes] = field(repr=False)
    """By file name. There need not be a revocation list."""
    authorities: tuple[x509.Certificate, ...]
    chain: tuple[x509.Certificate, ...]
    """What the server shows: its own, and those of the authorities between it and one that clients trust."""
    revocations: x509.CertificateRevocationList | None
    is_key_open: bool
    """Everybody on this machine may read the private key."""

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Raises Unreadable."""
        contents, modes = {}, {}
        for name in (*_REQUIRED, *_optional(directory)):
            contents[name], modes[name] = _read(directory / name)
        return cls(
            directory,
            contents,
            tuple(_parsed(x509.load_pem_x509_certificates, contents[AUTHORITY], directory / AUTHORITY)),
            tuple(_parsed(x509.load_pem_x509_certificates, contents[CERTIFICATE], directory / CERTIFICATE)),
            _parsed(x509.load_pem_x509_crl, contents[REVOCATIONS], directory / REVOCATIONS)
            if REVOCATIONS in contents
            else None,
            bool(modes[KEY] & _FOR_OTHERS),
        )

    @property
    def certificate(self) -> x509.Certificate:
        """The server's own."""
        return self.chain[0]

    @property
    def missing(self) -> tuple[x509.Certificate, ...]:
        """Authorities between the server's certificate and a root that is trusted, which the server does not show.

        A client that trusts only the root cannot know them. Where no root is trusted, what is there is the anchor.
        """
        between: list[x509.Certificate] = []
        current = self.issuer
        while current is not None and not has_signed(current, current) and current not in between:
            between.append(current)
            current = next((each for each in self.authorities if has_signed(each, between[-1])), None)
        has_root = current is not None and current not in between
        return tuple(each for each in between if has_root and each not in self.chain)

    @property
    def issuer(self) -> x509.Certificate | None:
        """The authority that has signed the server's certificate."""
        return next((each for each in self.authorities if has_signed(each, self.certificate)), None)

    @property
    def expires_at(self) -> datetime:
        """When the first of server and authority does."""
        chain = filter(None, (self.certificate, self.issuer))
        return min(certificate.not_valid_after_utc for certificate in chain)

    @property
    def names(self) -> tuple[str, ...]:
        """The host names and addresses that the certificate is for; its subject's, where it lists none (RFC 6125)."""
        listed = extension(self.certificate, x509.SubjectAlternativeName)
        if listed is None:
            subject = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            return tuple(str(attribute.value) for attribute in subject)
        addresses = map(str, listed.get_values_for_type(x509.IPAddress))
        return (*listed.get_values_for_type(x509.DNSName), *addresses)

    def is_for(self, host: str) -> bool:
        """As clients compare: a wildcard stands for the first label of a name, an address must be listed as one."""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])  # the zone of a link is no part of it
        except ValueError:
            return any(_matches(name.lower(), host.lower().rstrip(".")) for name in self.names)
        listed = extension(self.certificate, x509.SubjectAlternativeName)
        return listed is not None and address in listed.get_values_for_type(x509.IPAddress)


def extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def has_signed(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _optional(directory: Path) -> list[str]:
    return [REVOCATIONS] if os.path.lexists(directory / REVOCATIONS) else []


def _read(path: Path) -> tuple[bytes, int]:
    """With the file's mode."""
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST), os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        raise Unreadable(f"{path} is missing") from None
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from error


def _parsed(parse: Callable[[bytes], Parsed], content: bytes, path: Path) -> Parsed:
    try:
        return parse(content)
    except (ValueError, UnsupportedAlgorithm):
        raise Unreadable(f"{path} is not what its name says, in PEM form") from None


def _matches(pattern: str, name: str) -> bool:
    first, dot, rest = name.partition(".")
    return pattern == name or bool(first and dot and pattern == f"*.{rest}")
