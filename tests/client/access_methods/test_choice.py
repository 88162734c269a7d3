"""The choice among the ways, by what a machine really has."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudmanager.client import access_methods
from cloudmanager.client.access_methods import AccessMethod
from cloudmanager.client.access_methods.errors import AccessFailed, NotPossibleHere
from cloudmanager.client.address import Credentials, NbdAddress
from cloudmanager.core.model import Access
from tests.client.access_methods.disks import run
from tests.client.access_methods.serving import Serving

CLEAR = NbdAddress("nbd://127.0.0.1:1/disk")
TLS = NbdAddress("nbds://127.0.0.1:1/disk", Credentials("cloudmanager", "00ff"))
X509 = NbdAddress("nbds://127.0.0.1:1/disk")
WITHOUT_KERNEL_NBD = pytest.mark.skipif(Path("/sys/block/nbd0").exists(), reason="this kernel has NBD devices")


@pytest.fixture
def has_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """Leaves this machine with these programs alone."""

    def only(*programs: str) -> None:
        (tmp_path / "bin").mkdir()
        for program in programs:
            (tmp_path / "bin" / program).symlink_to(f"/usr/bin/{program}")
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setattr("cloudmanager.client.access_methods.command.SYSTEM_PATH", "")

    return only


@WITHOUT_KERNEL_NBD
def test_without_kernel_nbd_it_is_the_file_and_the_reason_says_what_to_load() -> None:
    choice = access_methods.choose(CLEAR)
    assert choice.method is AccessMethod.FILE
    assert "modprobe nbd" in choice.why_not[AccessMethod.DEVICE]


def test_with_tls_it_is_the_file_and_the_reasons_name_the_key() -> None:
    choice = access_methods.choose(TLS)
    assert choice.method is AccessMethod.FILE
    assert "TLS-PSK" in choice.why_not[AccessMethod.DEVICE]
    assert "cannot carry the key or certificates" in choice.why_not[AccessMethod.STUB]


@WITHOUT_KERNEL_NBD
def test_a_machine_with_qemu_img_alone_gets_the_stub(has_programs: object) -> None:
    has_programs("qemu-img")  # type: ignore[operator] # a function
    choice = access_methods.choose(CLEAR)
    assert choice.method is AccessMethod.STUB
    assert "libnbd-bin" in choice.why_not[AccessMethod.FILE]


@WITHOUT_KERNEL_NBD
def test_a_machine_with_nothing_gets_every_reason(has_programs: object) -> None:
    has_programs()  # type: ignore[operator] # a function
    with pytest.raises(NotPossibleHere, match="libnbd-bin") as refused:
        access_methods.choose(CLEAR)
    assert set(refused.value.reasons) == set(AccessMethod)


def test_a_writable_disk_is_never_a_stub() -> None:
    writable = NbdAddress(CLEAR.uri, is_writable=True)
    assert "read-only" in access_methods.choose(writable).why_not[AccessMethod.STUB]


def test_the_device_refuses_tls_and_says_what_to_use() -> None:
    with pytest.raises(NotPossibleHere, match="use the file"), access_methods.device(TLS):
        pass


def test_the_device_of_a_server_with_certificates_is_made_by_nbd_client() -> None:
    with pytest.raises(NotPossibleHere, match="nbd-client with your certificates"), access_methods.device(X509):
        pass


def test_an_address_of_another_protocol_is_refused() -> None:
    with pytest.raises(AccessFailed, match="not the address of an NBD server"):
        access_methods.choose(NbdAddress("https://example.com/disk"))


@pytest.mark.parametrize("method", [AccessMethod.FILE, AccessMethod.STUB])
def test_a_disk_is_opened_by_the_name_of_the_way(serving: Serving, raw: Path, method: AccessMethod) -> None:
    with access_methods.open_disk(serving.address(raw), method) as path:
        form = "raw" if method is AccessMethod.FILE else "qcow2"
        assert "identical" in run("qemu-img", "compare", "-f", form, "-F", "raw", path, raw)
    assert not path.exists()


@WITHOUT_KERNEL_NBD
def test_a_disk_is_opened_by_the_best_way(serving: Serving, raw: Path) -> None:
    with access_methods.open_disk(serving.address(raw, Access.SCRATCH)) as path:
        assert path.read_bytes() == raw.read_bytes()
