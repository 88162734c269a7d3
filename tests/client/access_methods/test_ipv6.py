"""An IPv6 address, with and without TLS: what works by the address, and what needs a host's name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cloudmanager.client.access_methods import file, stub
from cloudmanager.client.access_methods.endpoint import ProgramEndpoint
from cloudmanager.client.address import NbdAddress, as_written
from cloudmanager.client.deploy import deploy
from cloudmanager.client.deploy.errors import ConnectionLost
from cloudmanager.client.deploy.nbd_ends import NbdConnection
from cloudmanager.core.model import Access
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.libnbd import Timeouts
from tests.authority import Authority, CertificateRequest
from tests.client.access_methods.serving import Serving

MakeServing = Callable[..., Serving]
NAME = "ip6-evidence"


def six(
    make_serving: MakeServing, tmp_path: Path, kind: str, hosts: tuple[str, ...] = ("::1",), **more: str
) -> Serving:
    """Exports on ::1 of that kind of TLS; a certificate is for the hosts."""
    if kind != "x509":
        return make_serving(listen="::1", tls=kind, **more)
    authority = Authority()
    certificates = authority.server(tmp_path / "server", CertificateRequest(hosts=hosts))
    serving = make_serving(listen="::1", tls="x509", tls_certificates=certificates, **more)
    serving.certificates = authority.client(tmp_path / "client")
    return serving


def beginning(address: NbdAddress) -> bytes:
    with NbdConnection(address, Timeouts()) as connection:
        buffer = Buffer()
        connection.wait(connection.start_read(buffer.address, 4096, 0))
        return bytes(buffer.view[:4096])


@pytest.mark.parametrize("kind", ["off", "psk", "x509"])
@pytest.mark.parametrize("spelled", ["[::1]", "[0:0:0:0:0:0:0:1]", "[0000:0000::0001]"])
def test_our_client_reads_by_the_address(
    make_serving: MakeServing, tmp_path: Path, raw: Path, kind: str, spelled: str
) -> None:
    address = six(make_serving, tmp_path, kind).address(raw)
    assert "[::1]" in address.uri
    assert beginning(replace(address, uri=address.uri.replace("[::1]", spelled))) == raw.read_bytes()[:4096]


@pytest.mark.parametrize("kind", ["psk", "x509"])
def test_an_image_is_deployed_and_verified(make_serving: MakeServing, tmp_path: Path, raw: Path, kind: str) -> None:
    disk = tmp_path / "target.raw"
    disk.write_bytes(bytes(raw.stat().st_size))
    target = six(make_serving, tmp_path, kind).address(disk, Access.READ_WRITE)
    result = deploy(raw, target, verify=True, journal_directory=tmp_path / "journals")
    assert result.is_verified
    assert disk.read_bytes() == raw.read_bytes()


@pytest.mark.parametrize("kind", ["psk", "x509"])
def test_an_export_is_a_source_too(make_serving: MakeServing, tmp_path: Path, raw: Path, kind: str) -> None:
    source = six(make_serving, tmp_path, kind).address(raw)
    deploy(source, tmp_path / "copy.raw", journal_directory=tmp_path / "journals")
    assert (tmp_path / "copy.raw").read_bytes() == raw.read_bytes()


def test_a_certificate_for_another_address_is_refused(make_serving: MakeServing, tmp_path: Path, raw: Path) -> None:
    serving = six(make_serving, tmp_path, "x509", hosts=("127.0.0.1", "localhost"), advertise="localhost")
    address = serving.address(raw)
    by_address = replace(address, uri=address.uri.replace("localhost", "[::1]"))
    with pytest.raises(ConnectionLost, match="certificate is refused: IP address mismatch"):
        beginning(by_address)


def test_a_server_of_another_authority_is_refused(make_serving: MakeServing, tmp_path: Path, raw: Path) -> None:
    address = six(make_serving, tmp_path, "x509").address(raw)
    stranger = Authority("lab").client(tmp_path / "stranger")
    with pytest.raises(ConnectionLost, match="certificate is refused"):
        beginning(replace(address, certificates=stranger))


def test_a_revoked_server_is_refused(make_serving: MakeServing, tmp_path: Path, raw: Path) -> None:
    authority = Authority()
    certificates = authority.server(tmp_path / "server", CertificateRequest(hosts=("::1",)))
    serving = make_serving(listen="::1", tls="x509", tls_certificates=certificates)
    mine = authority.client(tmp_path / "client")
    address = replace(serving.address(raw), certificates=mine)
    assert beginning(address)
    (mine / "ca-crl.pem").write_bytes(authority.revoke(certificates / "server-cert.pem"))
    with pytest.raises(ConnectionLost, match="certificate revoked"):
        beginning(address)


def test_a_client_that_the_server_refuses_is_told_that_the_connection_ended(
    make_serving: MakeServing, tmp_path: Path, raw: Path
) -> None:
    address = six(make_serving, tmp_path, "x509").address(raw)
    unknown = tmp_path / "unknown"
    Authority("others").client(unknown)
    (unknown / "ca-cert.pem").write_bytes((Path(str(address.certificates)) / "ca-cert.pem").read_bytes())
    with pytest.raises(ConnectionLost):
        beginning(replace(address, certificates=unknown))


def test_a_server_that_dies_ends_the_connection(make_serving: MakeServing, tmp_path: Path, raw: Path) -> None:
    serving = six(make_serving, tmp_path, "x509")
    address = serving.address(raw)
    with NbdConnection(address, Timeouts()) as connection:
        serving.kill(address)
        with pytest.raises(ConnectionLost):
            connection.wait(connection.start_read(Buffer().address, 4096, 0))


@pytest.mark.parametrize("kind", ["psk", "x509"])
def test_the_ways_that_speak_tls_take_the_address(
    make_serving: MakeServing, tmp_path: Path, raw: Path, kind: str
) -> None:
    address = six(make_serving, tmp_path, kind).address(raw)
    with file(address) as made:
        assert made.path.read_bytes() == raw.read_bytes()
    with stub(address, tmp_path / "disk.qcow2") as made:
        command = ["qemu-img", "convert", "-O", "raw", *made.options]
        image = f"driver=qcow2,file.driver=file,file.filename={made.path}"
        subprocess.run([*command, "--image-opts", image, tmp_path / "copy"], check=True, timeout=60)
    assert (tmp_path / "copy").read_bytes() == raw.read_bytes()


@pytest.fixture
def hosts(tmp_path: Path) -> list[str]:
    """What runs a command where the name is known, in a mount namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can bind another /etc/hosts")
    known = tmp_path / "hosts"
    known.write_text(f"127.0.0.1 localhost\n::1 {NAME}\n")
    script = f'mount --bind {known} /etc/hosts && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-c", script, "sh"]


@pytest.mark.parametrize("kind", ["psk", "x509"])
def test_by_a_name_everybody_connects(
    make_serving: MakeServing, tmp_path: Path, raw: Path, hosts: list[str], kind: str
) -> None:
    """The advertised name is what programs built on libnbd need; ours take it too."""
    address = six(make_serving, tmp_path, kind, hosts=(NAME,), advertise=NAME).address(raw)
    assert f"{NAME}:" in address.uri
    uri = as_written(address)
    if address.credentials is not None:
        keys = tmp_path / "keys"
        keys.write_text(f"{address.credentials.username}:{address.credentials.key}\n")
        uri = f"{uri.replace('nbds://', f'nbds://{address.credentials.username}@')}?tls-psk-file={keys}"
    subprocess.run([*hosts, "nbdcopy", uri, tmp_path / "copy"], check=True, timeout=60)
    assert (tmp_path / "copy").read_bytes() == raw.read_bytes()
    command = [sys.executable, "-m", "cloudmanager", "deploy", uri, str(tmp_path / "deployed")]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    subprocess.run([*hosts, *command], check=True, timeout=60, env=environment, capture_output=True)
    assert (tmp_path / "deployed").read_bytes() == raw.read_bytes()


@pytest.mark.parametrize("spelled", ["fe80::1%25eth0", "fe80::1%eth0", "FE80::1%25eth0"])
def test_the_zone_of_a_link_is_read_and_is_no_part_of_a_certificate(spelled: str) -> None:
    endpoint = ProgramEndpoint.of(NbdAddress(f"nbds://[{spelled}]:10900/name"))
    assert (endpoint.host, endpoint.certified_host) == ("fe80::1%eth0", "fe80::1")
    assert endpoint.as_block_device("tls")["tls-hostname"] == "fe80::1"


def test_a_zone_that_this_machine_has_not_is_said(make_serving: MakeServing, raw: Path) -> None:
    address = make_serving(listen="::1", tls="psk").address(raw)
    with pytest.raises(ConnectionLost, match="cannot be reached"):
        beginning(replace(address, uri=address.uri.replace("[::1]", "[fe80::1%25no-such-link]")))


@pytest.mark.parametrize("uri", ["nbds://[::1:10900/x", "nbds://[::1]:port/x", "http://[::1]/x"])
def test_what_is_no_address_is_a_typed_error(uri: str) -> None:
    with pytest.raises(ConnectionLost, match="cannot be reached"):
        beginning(NbdAddress(uri))
