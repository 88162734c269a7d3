"""With TLS, whoever has an export's key may read it, and nobody else."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.transfer.extents import Extent
from tests.core.nbd.client import Client
from tests.core.nbd.exporter import ENGINES, Exporter, Served, device

SANDBOXES = pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])


@pytest.fixture(params=ENGINES)
def exporter(make_exporter: Callable[..., Exporter], request: pytest.FixtureRequest) -> Exporter:
    return make_exporter(tls="psk", engine=request.param)


def key_file(exporter: Exporter, served: Served, path: Path) -> Path:
    credentials = exporter.servers.credentials(served.id)
    assert credentials is not None
    path.write_text(f"{credentials.username}:{credentials.key}\n")
    return path


def with_key(uri: str, keys: Path, username: str = "cloudmanager") -> str:
    return uri.replace("//", f"//{username}@", 1) + f"?tls-psk-file={keys}"


def nbdinfo(uri: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nbdinfo", uri], capture_output=True, text=True, check=False, timeout=30)


def cipher(uri: str) -> str:
    """That libnbd and the server have agreed on."""
    command, environment = ["nbdinfo", "--size", uri], os.environ | {"LIBNBD_DEBUG": "1"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30).stderr
    (found,) = re.findall(r"using TLS: cipher (\S+)", output)
    return str(found)


@SANDBOXES
def test_a_client_with_the_key_reads_the_disk(
    make_exporter: Callable[..., Exporter], sandbox: str, raw: Path, tmp_path: Path
) -> None:
    exporter = make_exporter(tls="psk", sandbox=sandbox)
    served = exporter.export(device(raw))
    uri = with_key(served.uri, key_file(exporter, served, tmp_path / "keys"))
    assert "with TLS" in nbdinfo(uri).stdout
    subprocess.run(["nbdcopy", uri, tmp_path / "copy"], check=True, timeout=60)
    assert (tmp_path / "copy").read_bytes() == raw.read_bytes()


def test_a_client_without_the_key_is_refused(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    assert nbdinfo(served.uri.replace("nbds:", "nbd:")).returncode != 0
    with pytest.raises(ConnectionError, match="0x80000005"):
        Client.greeted(served.port, served.spec.name)


def test_the_key_of_another_export_is_refused(exporter: Exporter, raw: Path, tmp_path: Path) -> None:
    served, other = exporter.export(device(raw)), exporter.export(device(raw))
    wrong = key_file(exporter, other, tmp_path / "other")
    assert nbdinfo(with_key(served.uri, wrong)).returncode != 0
    assert nbdinfo(with_key(served.uri, key_file(exporter, served, tmp_path / "right"))).returncode == 0


def test_the_key_is_private_stays_the_same_and_is_deleted_at_the_end(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    path = exporter.directory / served.id / "tls" / "keys.psk"
    key = exporter.servers.credentials(served.id)
    assert path.stat().st_mode & 0o777 == 0o600
    path.with_suffix(".new").write_text("left by a crash")
    os.kill(served.pid, 9)
    exporter.exited()
    exporter.start(served.spec)
    assert exporter.servers.credentials(served.id) == key
    exporter.servers.stop(served.id)
    assert not path.exists()
    assert exporter.servers.credentials(served.id) is None


def test_a_server_that_is_replaced_keeps_the_key(exporter: Exporter, raw: Path, tmp_path: Path) -> None:
    served = exporter.export(device(raw))
    keys = key_file(exporter, served, tmp_path / "keys")
    os.kill(served.pid, 9)
    assert exporter.exited() == served.id
    exporter.start(served.spec)
    assert nbdinfo(with_key(served.uri, keys)).returncode == 0


def test_without_tls_there_are_no_credentials(make_exporter: Callable[..., Exporter], raw: Path) -> None:
    exporter = make_exporter()
    assert exporter.servers.credentials(exporter.export(device(raw)).id) is None


def test_a_key_is_not_shown(exporter: Exporter, raw: Path) -> None:
    credentials = exporter.servers.credentials(exporter.export(device(raw)).id)
    assert credentials is not None
    assert len(bytes.fromhex(credentials.key)) == 32
    assert credentials.key not in repr(credentials)


def test_the_cipher_is_the_fast_one(exporter: Exporter, raw: Path, tmp_path: Path) -> None:
    served = exporter.export(device(raw))
    assert cipher(with_key(served.uri, key_file(exporter, served, tmp_path / "keys"))) == "AES-128-GCM"


@pytest.mark.parametrize("listen", ["::1", "::", "127.0.0.1"])
def test_the_service_itself_reaches_its_servers(make_exporter: Callable[..., Exporter], raw: Path, listen: str) -> None:
    """By an address, with TLS: libnbd cannot do it by the address of an IPv6 listener."""
    exporter = make_exporter(tls="psk", listen=listen, advertise="disks.example")
    served = exporter.export(device(raw))
    with exporter.servers.transfer(served.id, served.spec.name, served.port) as transfer:
        assert transfer.size_bytes == raw.stat().st_size
        assert len(transfer.digests(Extent(0, 4096))) > 0
