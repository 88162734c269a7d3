"""With certificates, whoever has one of the authority's may read, and nobody else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.core.errors import ServerFailed
from cloudmanager.core.model import Tls
from tests.authority import DAY, Authority, CertificateRequest
from tests.core.nbd.client import Client
from tests.core.nbd.exporter import ENGINES, Exporter, Served, device
from tests.core.nbd.test_tls import SANDBOXES, cipher

MakeExporter = Callable[..., Exporter]


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def certificates(authority: Authority, tmp_path: Path) -> Path:
    """The server's."""
    return authority.server(tmp_path / "server")


@pytest.fixture
def mine(authority: Authority, tmp_path: Path) -> Path:
    """The client's."""
    return authority.client(tmp_path / "client")


@pytest.fixture(params=ENGINES)
def exporter(make_exporter: MakeExporter, certificates: Path, request: pytest.FixtureRequest) -> Exporter:
    return make_exporter(tls="x509", tls_certificates=certificates, engine=request.param)


def nbdinfo(uri: str, certificates: Path) -> subprocess.CompletedProcess[str]:
    command = ["nbdinfo", f"{uri}?tls-certificates={certificates}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def replaced(exporter: Exporter, served: Served) -> Served:
    """Its server dies, and the next one is started."""
    os.kill(served.pid, 9)
    assert exporter.exited() == served.id
    return exporter.start(served.spec)


@SANDBOXES
def test_a_client_of_the_authority_reads_the_disk(
    make_exporter: MakeExporter, certificates: Path, mine: Path, sandbox: str, raw: Path, tmp_path: Path
) -> None:
    exporter = make_exporter(tls="x509", tls_certificates=certificates, sandbox=sandbox)
    served = exporter.export(device(raw))
    assert served.uri.startswith("nbds://")
    assert "with TLS" in nbdinfo(served.uri, mine).stdout
    subprocess.run(["nbdcopy", f"{served.uri}?tls-certificates={mine}", tmp_path / "copy"], check=True, timeout=60)
    assert (tmp_path / "copy").read_bytes() == raw.read_bytes()


def test_a_client_in_the_clear_is_refused(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    with pytest.raises(ConnectionError, match="0x80000005"):
        Client.greeted(served.port, served.spec.name)


def test_a_client_without_a_certificate_is_refused(exporter: Exporter, mine: Path, raw: Path) -> None:
    served = exporter.export(device(raw))
    assert nbdinfo(served.uri, mine).returncode == 0
    (mine / "client-cert.pem").unlink()
    (mine / "client-key.pem").unlink()
    assert nbdinfo(served.uri, mine).returncode != 0


def test_the_certificate_of_another_authority_is_refused(
    exporter: Exporter, certificates: Path, raw: Path, tmp_path: Path
) -> None:
    served = exporter.export(device(raw))
    stranger = Authority("lab").client(tmp_path / "stranger")
    (stranger / "ca-cert.pem").write_bytes((certificates / "ca-cert.pem").read_bytes())
    assert nbdinfo(served.uri, stranger).returncode != 0


def test_a_client_trusts_no_other_authoritys_server(exporter: Exporter, mine: Path, raw: Path, tmp_path: Path) -> None:
    served = exporter.export(device(raw))
    other = Authority("lab").client(tmp_path / "other")
    (mine / "ca-cert.pem").write_bytes((other / "ca-cert.pem").read_bytes())
    assert nbdinfo(served.uri, mine).returncode != 0


def test_a_revoked_certificate_is_refused(
    exporter: Exporter, authority: Authority, certificates: Path, mine: Path, raw: Path, tmp_path: Path
) -> None:
    friend = authority.client(tmp_path / "friend")
    (certificates / "ca-crl.pem").write_bytes(authority.revoke(mine / "client-cert.pem"))
    served = exporter.export(device(raw))
    assert nbdinfo(served.uri, mine).returncode != 0
    assert nbdinfo(served.uri, friend).returncode == 0


def test_the_next_server_takes_what_was_renewed_and_a_running_one_keeps_what_it_has(
    exporter: Exporter, authority: Authority, certificates: Path, mine: Path, raw: Path
) -> None:
    served = exporter.export(device(raw))
    (certificates / "ca-crl.pem").write_bytes(authority.revoke(mine / "client-cert.pem"))
    assert nbdinfo(served.uri, mine).returncode == 0
    again = replaced(exporter, served)
    assert nbdinfo(served.uri, mine).returncode != 0
    (certificates / "ca-crl.pem").unlink()
    replaced(exporter, again)
    assert nbdinfo(served.uri, mine).returncode == 0


def test_the_server_sees_copies_that_are_private_and_deleted_at_the_end(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    directory = exporter.directory / served.id / "tls"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "server-key.pem").stat().st_mode & 0o777 == 0o600
    assert b"/server," not in Path(f"/proc/{served.pid}/cmdline").read_bytes()
    seen = {path.name for path in Path(f"/proc/{served.pid}/root").iterdir()}
    assert "tls" in seen
    assert "server" not in seen
    exporter.servers.stop(served.id)
    assert not directory.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_of_another_user_is_used_all_the_same(
    exporter: Exporter, certificates: Path, mine: Path, raw: Path
) -> None:
    """A sandboxed root has no right to read it."""
    os.chown(certificates, 1234, 1234)
    os.chown(certificates / "server-key.pem", 1234, 1234)
    assert nbdinfo(exporter.export(device(raw)).uri, mine).returncode == 0


def test_the_next_daemon_adopts_the_server(
    exporter: Exporter, make_exporter: MakeExporter, mine: Path, raw: Path
) -> None:
    served = exporter.export(device(raw))
    following = exporter.succeeded()
    try:
        assert following.adopt(served, served.process) == served.process
        assert following.start(served.spec).process == served.process
        assert nbdinfo(served.uri, mine).returncode == 0
    finally:
        following.stop_all()


def test_a_server_that_was_found_without_a_record_proves_itself(exporter: Exporter, mine: Path, raw: Path) -> None:
    served = exporter.export(device(raw))
    following = exporter.succeeded()
    try:
        assert following.adopt(served, None) is not None
        assert following.start(served.spec).process.pid == served.pid
        assert nbdinfo(served.uri, mine).returncode == 0
    finally:
        following.stop_all()


def test_a_daemon_with_other_settings_says_how_an_adopted_server_serves(
    exporter: Exporter, make_exporter: MakeExporter, mine: Path, raw: Path
) -> None:
    served = exporter.export(device(raw))
    exporter.end()
    following = make_exporter(tls="psk")
    following.adopt(served, served.process)
    assert following.servers.tls(served.id) is Tls.X509
    assert following.servers.credentials(served.id) is None
    os.kill(served.pid, 9)
    following.exited()
    following.start(served.spec)
    assert following.servers.tls(served.id) is Tls.PSK
    assert following.servers.credentials(served.id) is not None
    assert not (following.directory / served.id / "tls" / "server-key.pem").exists()


def test_expired_certificates_keep_a_server_from_starting_and_are_tried_again(
    exporter: Exporter, authority: Authority, certificates: Path, mine: Path, raw: Path
) -> None:
    authority.server(certificates, CertificateRequest(until=-DAY / 2))
    with pytest.raises(ServerFailed, match=r"server-cert\.pem expired on .* Put a renewed one there") as refused:
        exporter.export(device(raw))
    assert refused.value.retriable
    authority.server(certificates)
    assert nbdinfo(exporter.export(device(raw)).uri, mine).returncode == 0


def test_the_cipher_is_the_fast_one(exporter: Exporter, mine: Path, raw: Path) -> None:
    served = exporter.export(device(raw))
    assert cipher(f"{served.uri}?tls-certificates={mine}") == "AES-128-GCM"
