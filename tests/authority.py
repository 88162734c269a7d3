"""An authority that gives certificates to servers and clients of exports, under the names that QEMU looks for."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class CertificateRequest:
    """What a certificate is to say."""

    hosts: tuple[str, ...] = ("127.0.0.1", "localhost")
    since: timedelta = -DAY
    """From now on."""
    until: timedelta = 90 * DAY
    purpose: x509.ObjectIdentifier | None = None
    is_authority: bool = False
    signs_certificates: bool = True


@dataclass
class Authority:
    name: str = "lab"
    wanted: CertificateRequest = field(default_factory=lambda: CertificateRequest(hosts=(), is_authority=True))
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.certificate = self._signed(self.name, self.key, self.wanted)

    def server(self, directory: Path, wanted: CertificateRequest | None = None) -> Path:
        """The directory, filled for `nbd.tls_certificates`."""
        purpose = CertificateRequest(purpose=ExtendedKeyUsageOID.SERVER_AUTH)
        self.issue("server", directory, wanted or purpose)
        return directory

    def client(self, directory: Path) -> Path:
        """The directory, filled for `tls-certificates` and CLOUDMANAGER_CERTIFICATES."""
        self.issue("client", directory, CertificateRequest(hosts=(), purpose=ExtendedKeyUsageOID.CLIENT_AUTH))
        return directory

    def issue(self, whose: str, directory: Path, wanted: CertificateRequest) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(whose, key, wanted)
        (directory / "ca-cert.pem").write_bytes(self.certificate.public_bytes(Encoding.PEM))
        (directory / f"{whose}-cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        write_key(directory / f"{whose}-key.pem", key)

    def revoke(self, *certificates: Path, until: timedelta = 30 * DAY) -> bytes:
        """A revocation list, for ca-crl.pem."""
        now = datetime.now(UTC)
        made = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        made = made.last_update(now - 2 * DAY).next_update(now + until)
        for path in certificates:
            serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - DAY)
            made = made.add_revoked_certificate(revoked.build())
        return made.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _signed(self, name: str, key: ec.EllipticCurvePrivateKey, wanted: CertificateRequest) -> x509.Certificate:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + wanted.since)
            .not_valid_after(now + wanted.until)
            .add_extension(x509.BasicConstraints(ca=wanted.is_authority, path_length=None), critical=True)
            .add_extension(_usage(signs=wanted.is_authority and wanted.signs_certificates), critical=True)
        )
        if wanted.hosts:
            made = made.add_extension(x509.SubjectAlternativeName(map(_host, wanted.hosts)), critical=False)
        if wanted.purpose:
            made = made.add_extension(x509.ExtendedKeyUsage([wanted.purpose]), critical=False)
        return made.sign(self.key, hashes.SHA256())


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
