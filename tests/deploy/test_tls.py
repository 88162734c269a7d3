"""An export with a key."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

import pytest

from cloudmanager.client.address import Credentials, NbdAddress
from cloudmanager.client.deploy.errors import ConnectionLost
from tests.deploy import images
from tests.deploy.servers import Server

DH = Path(__file__).parents[2] / "cloudmanager" / "core" / "nbd" / "ffdhe2048.pem"


@pytest.fixture
def key() -> str:
    return secrets.token_hex(32)


@pytest.fixture
def server(tmp_path, key):
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


def test_it_is_deployed_onto_and_verified_with_the_key(raw, server, key, put):
    put(raw, _address(server, key), verify=True)
    assert images.same(raw, server.disk)


def test_a_wrong_key_is_refused(raw, server, put):
    with pytest.raises(ConnectionLost):
        put(raw, _address(server, "00" * 32))


def test_the_key_is_on_no_command_line_and_in_no_file(raw, server, key, put, tmp_path, journals):
    seen: list[bytes] = []

    def look(progress: object) -> None:
        seen.append(subprocess.run(["ps", "-ewwo", "args"], capture_output=True, check=True).stdout)

    put(raw, _address(server, key), progress=look)
    assert seen
    assert not any(key.encode() in lines for lines in seen)
    assert not any(key in path.read_text() for path in journals.glob("*"))
