"""An export with a key, or with certificates."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.client.address import VARIABLE, Credentials, NbdAddress, address_of
from cloudmanager.client.deploy.errors import ConnectionLost
from tests.authority import Authority
from tests.checkout import ROOT
from tests.client.deploy import images
from tests.client.deploy.conftest import Put
from tests.client.deploy.servers import Server, serving

DH = ROOT / "cloudmanager" / "core" / "nbd" / "ffdhe2048.pem"


@pytest.fixture
def key() -> str:
    return secrets.token_hex(32)


@pytest.fixture
def server(tmp_path: Path, key: str) -> Iterator[Server]:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "keys.psk").write_text(f"worker:{key}\n")
    (keys / "dh-params.pem").write_bytes(DH.read_bytes())
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(images.SIZE)
    tls = f"tls-creds-psk,id=tls,endpoint=server,dir={keys},priority=NORMAL:-CIPHER-ALL:+AES-128-GCM"
    server = Server(disk, tmp_path / "socket", ("--shared=8", "--discard=unmap", "--object", tls, "--tls-creds", "tls"))
    server.start()
    yield server
    server.stop()


def _address(server: Server, key: str) -> NbdAddress:
    return NbdAddress(f"nbds+unix:///disk?socket={server.socket}", Credentials("worker", key), is_writable=True)


def test_it_is_deployed_onto_and_verified_with_the_key(raw: Path, server: Server, key: str, put: Put) -> None:
    put(raw, _address(server, key), verify=True)
    assert images.same(raw, server.disk)


@pytest.fixture
def x509_server(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    authority = Authority()
    certificates = authority.server(tmp_path / "server")
    disk = tmp_path / "x509-disk"
    with disk.open("wb") as file:
        file.truncate(images.SIZE)
    tls = f"tls-creds-x509,id=tls,endpoint=server,dir={certificates},verify-peer=yes"
    with serving(disk, "--shared=8", "--discard=unmap", "--object", tls, "--tls-creds", "tls") as server:
        yield server, authority.client(tmp_path / "client")


def test_it_is_deployed_onto_with_a_certificate(
    raw: Path, x509_server: tuple[Server, Path], put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, certificates = x509_server
    uri = f"nbds+unix:///disk?socket={server.socket}"
    put(raw, NbdAddress(uri, is_writable=True, certificates=certificates), verify=True)
    assert images.same(raw, server.disk)
    monkeypatch.setenv(VARIABLE, str(certificates))
    put(raw, NbdAddress(uri, is_writable=True), verify=True, overwrite=True)
    put(raw, address_of(f"{uri}&tls-certificates={certificates}", is_writable=True), overwrite=True)


def test_a_certificate_of_another_authority_is_refused(
    raw: Path, x509_server: tuple[Server, Path], put: Put, tmp_path: Path
) -> None:
    server, _ = x509_server
    stranger = Authority("lab").client(tmp_path / "stranger")
    with pytest.raises(ConnectionLost):
        put(raw, NbdAddress(f"nbds+unix:///disk?socket={server.socket}", is_writable=True, certificates=stranger))


def test_a_wrong_key_is_refused(raw: Path, server: Server, put: Put) -> None:
    with pytest.raises(ConnectionLost):
        put(raw, _address(server, "00" * 32))


def test_the_key_is_on_no_command_line_and_in_no_file(
    raw: Path, server: Server, key: str, put: Put, tmp_path: Path, journals: Path
) -> None:
    seen: list[bytes] = []

    def look(progress: object) -> None:
        seen.append(subprocess.run(["ps", "-ewwo", "args"], capture_output=True, check=True).stdout)

    put(raw, _address(server, key), progress=look)
    assert seen
    assert not any(key.encode() in lines for lines in seen)
    assert not any(key in path.read_text() for path in journals.glob("*"))
