"""What is wrong with a server's certificates is said before anything relies on them."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloudmanager.core import certificates
from cloudmanager.core.certificates.files import Certificates
from cloudmanager.core.doctor.network import check_certificates
from cloudmanager.core.errors import ConfigurationError
from cloudmanager.core.model import Severity
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.settings import Settings, from_tables
from cloudmanager.core.wiring import open_manager
from tests.authority import DAY, Authority, CertificateRequest, write_key

HOST = "127.0.0.1"
Breaking = Callable[[Authority, Path], object]


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def directory(authority: Authority, tmp_path: Path) -> Path:
    return authority.server(tmp_path / "tls")


def settings_for(directory: Path, **nbd: object) -> Settings:
    server = {"state_dir": str(directory.parent / "state")}
    return from_tables({"server": server, "nbd": {"tls": "x509", "tls_certificates": str(directory), **nbd}})


def _expired(authority: Authority, directory: Path) -> None:
    authority.server(directory, CertificateRequest(until=-DAY / 2))


def _not_yet(authority: Authority, directory: Path) -> None:
    authority.server(directory, CertificateRequest(since=DAY))


def _another_key(authority: Authority, directory: Path) -> None:
    write_key(directory / "server-key.pem", ec.generate_private_key(ec.SECP256R1()))


def _another_authority(authority: Authority, directory: Path) -> None:
    other = Authority("lab").server(directory.parent / "other")
    (directory / "ca-cert.pem").write_bytes((other / "ca-cert.pem").read_bytes())


def _a_locked_key(authority: Authority, directory: Path) -> None:
    path = directory / "server-key.pem"
    locked = subprocess.run(
        ["openssl", "pkey", "-in", path, "-aes256", "-passout", "pass:secret"], capture_output=True, check=True
    )
    path.write_bytes(locked.stdout)


def _a_link_to_an_open_place(authority: Authority, directory: Path) -> None:
    del authority
    elsewhere = directory.parent / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    (directory / "server-cert.pem").rename(elsewhere / "server-cert.pem")
    (directory / "server-cert.pem").symlink_to(elsewhere / "server-cert.pem")


def _a_foreign_list(authority: Authority, directory: Path) -> None:
    (directory / "ca-crl.pem").write_bytes(Authority("lab").revoke())


BROKEN: dict[str, tuple[Breaking, str]] = {
    "no key": (lambda _, path: (path / "server-key.pem").unlink(), r"server-key\.pem is missing"),
    "no authority": (lambda _, path: (path / "ca-cert.pem").unlink(), r"ca-cert\.pem is missing"),
    "no PEM": (lambda _, path: (path / "server-cert.pem").write_text("hello"), "is not what its name says"),
    "an empty authority": (lambda _, path: (path / "ca-cert.pem").write_text(""), "is not what its name says"),
    "an open key": (lambda _, path: (path / "server-key.pem").chmod(0o644), "everybody on this machine. chmod 600"),
    "an open directory": (lambda _, path: path.chmod(0o777), "can be written by everybody on this machine. chmod o-w"),
    "an open authority": (lambda _, path: (path / "ca-cert.pem").chmod(0o666), r"ca-cert\.pem can be written by every"),
    "a link to an open place": (_a_link_to_an_open_place, "elsewhere can be written by everybody"),
    "no key in it": (lambda _, path: (path / "server-key.pem").write_text("hello"), "is no private key"),
    "a key with a password": (_a_locked_key, "wants a password"),
    "another key": (_another_key, r"is not the key of server-cert\.pem"),
    "another authority": (_another_authority, r"ca-cert\.pem has not signed server-cert\.pem.*CN=lab"),
    "another authority's revocations": (_a_foreign_list, r"ca-crl\.pem is not from an authority"),
    "another name": (
        lambda each, path: each.server(path, CertificateRequest(("disks.example",))),
        "is for disks.example, but",
    ),
    "for clients": (
        lambda each, path: each.server(path, CertificateRequest(purpose=ExtendedKeyUsageOID.CLIENT_AUTH)),
        "is not for servers",
    ),
    "an authority's own": (
        lambda each, path: each.server(path, CertificateRequest(is_authority=True)),
        "is the certificate of an authority",
    ),
    "no authority at all": (
        lambda _, path: Authority(wanted=CertificateRequest((), is_authority=True, signs_certificates=False)).server(
            path
        ),
        "is not the certificate of an authority",
    ),
    "expired": (_expired, "expired on"),
    "not yet valid": (_not_yet, "is valid from"),
}
OF_TIME = {"expired", "not yet valid"}


def test_good_certificates_have_no_fault(directory: Path) -> None:
    found, faults = certificates.check(directory, HOST)
    assert faults == []
    assert found is not None
    assert found.names == ("localhost", "127.0.0.1")


@pytest.mark.parametrize(("breaking", "output"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_is_said_with_what_to_do(
    authority: Authority, directory: Path, breaking: Breaking, output: str
) -> None:
    breaking(authority, directory)
    found = list(check_certificates(settings_for(directory)))
    assert [finding.severity for finding in found] == [Severity.PROBLEM]
    assert found[0].advice
    assert re.search(output, f"{found[0].seen}. {found[0].advice}")


@pytest.mark.parametrize("what", sorted(BROKEN.keys() - OF_TIME))
def test_a_service_does_not_start_with_what_somebody_has_to_mend(
    authority: Authority, directory: Path, what: str
) -> None:
    breaking, output = BROKEN[what]
    breaking(authority, directory)
    with pytest.raises(ConfigurationError, match=rf"nbd\.tls_certificates: .*{output}"):
        open_manager(settings_for(directory), Plugins())


@pytest.mark.parametrize("what", sorted(OF_TIME))
def test_a_service_starts_with_what_came_with_time_and_says_it(
    authority: Authority, directory: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    breaking, output = BROKEN[what]
    breaking(authority, directory)
    manager = open_manager(settings_for(directory), Plugins())
    try:
        manager.start()
        assert [(each.levelno, output in each.getMessage()) for each in caplog.records] == [(logging.ERROR, True)]
        (finding,) = [finding for finding in manager.readiness() if finding.subject == "certificates"]
        assert finding.severity is Severity.WARNING
        assert output in finding.seen
    finally:
        manager.close()


def test_a_revocation_list_of_the_authority_is_no_fault(authority: Authority, directory: Path) -> None:
    (directory / "ca-crl.pem").write_bytes(authority.revoke())
    assert certificates.check(directory, HOST)[1] == []


def test_one_of_several_authorities_has_signed(authority: Authority, directory: Path) -> None:
    other = Authority("old").server(directory.parent / "other") / "ca-cert.pem"
    (directory / "ca-cert.pem").write_bytes(other.read_bytes() + (directory / "ca-cert.pem").read_bytes())
    assert certificates.check(directory, HOST)[1] == []


@pytest.mark.parametrize(
    ("hosts", "host", "fits"),
    [
        (("disks.example",), "disks.example", True),
        (("disks.example",), "DISKS.example.", True),
        (("*.example",), "disks.example", True),
        (("*.example",), "a.disks.example", False),
        (("*.example",), "example", False),
        (("10.0.0.7",), "10.0.0.7", True),
        (("10.0.0.7",), "10.0.0.8", False),
        (("2001:db8::7",), "2001:db8:0::7", True),
        ((), "server", True),
        ((), "10.0.0.7", False),
    ],
)
def test_names_are_compared_as_clients_do(
    authority: Authority, directory: Path, hosts: tuple[str, ...], host: str, fits: bool
) -> None:
    authority.server(directory, CertificateRequest(hosts))
    assert Certificates.read(directory).is_for(host) is fits


def test_the_doctor_warns_before_they_expire(authority: Authority, directory: Path) -> None:
    (good,) = check_certificates(settings_for(directory))
    assert (good.severity, good.seen[:26]) == (Severity.OK, "for localhost, 127.0.0.1, ")
    authority.server(directory, CertificateRequest(until=5 * DAY))
    (soon,) = check_certificates(settings_for(directory))
    assert soon.severity is Severity.WARNING
    assert "Renew" in soon.advice


def test_the_doctor_says_nothing_where_they_are_not_used(directory: Path) -> None:
    assert list(check_certificates(settings_for(directory, tls="psk"))) == []


@pytest.fixture
def between(authority: Authority) -> Authority:
    """An authority that the root has signed."""
    made = Authority("between")
    made.certificate = authority._signed("between", made.key, CertificateRequest(hosts=(), is_authority=True))
    return made


def in_pem(*authorities: Authority) -> bytes:
    return b"".join(each.certificate.public_bytes(Encoding.PEM) for each in authorities)


def test_a_certificate_without_the_one_between_it_and_the_root_is_found(
    authority: Authority, between: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By who looks: servers start with it, for they have both; a client that trusts the root has not."""
    directory = between.server(tmp_path / "tls")
    (directory / "ca-cert.pem").write_bytes(in_pem(authority, between))
    [found] = certificates.findings(directory, HOST)
    assert found.severity is Severity.PROBLEM
    assert "lacks the certificate of CN=between" in found.seen
    assert "Append that certificate" in found.advice
    certificates.require(directory, HOST)
    assert "some clients refuse the exports" in caplog.text
    client = authority.client(tmp_path / "client")
    assert "unable to get local issuer" in _verified(client, directory)
    server = directory / "server-cert.pem"
    server.write_bytes(server.read_bytes() + in_pem(between))
    assert [each.severity for each in certificates.findings(directory, HOST)] == [Severity.OK]
    assert "OK" in _verified(client, directory)


def _verified(client: Path, directory: Path) -> str:
    """By a client that trusts the root, of what the server shows."""
    shown = directory / "server-cert.pem"
    command = ["openssl", "verify", "-CAfile", str(client / "ca-cert.pem"), "-untrusted", str(shown), str(shown)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr


def test_an_authority_in_between_that_is_trusted_itself_needs_no_root(
    authority: Authority, between: Authority, tmp_path: Path
) -> None:
    directory = between.server(tmp_path / "tls")
    assert [each.severity for each in certificates.findings(directory, HOST)] == [Severity.OK]
    (directory / "ca-cert.pem").write_bytes(in_pem(authority))
    assert [each.severity for each in certificates.findings(directory, HOST)] == [Severity.PROBLEM]
