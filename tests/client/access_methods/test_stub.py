"""The stub way: an image that QEMU's programs follow to the export."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cloudmanager.client import access_methods
from cloudmanager.client.access_methods.errors import AccessFailed, NotPossibleHere
from cloudmanager.client.address import NbdAddress
from cloudmanager.core.model import Access
from tests.client.access_methods.disks import run
from tests.client.access_methods.serving import Serving


def test_qemu_img_reads_the_disk_through_it(serving: Serving, raw: Path, tmp_path: Path) -> None:
    with access_methods.stub(serving.address(raw), tmp_path / "disk.qcow2") as stub:
        assert stub.options == ()
        assert "identical" in run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", stub.path, raw)


def test_it_is_small(serving: Serving, raw: Path, tmp_path: Path) -> None:
    with access_methods.stub(serving.address(raw), tmp_path / "disk.qcow2") as stub:
        assert stub.path.stat().st_size < 256 * 1024


def test_qemu_nbd_serves_the_disk_from_it(serving: Serving, raw: Path, tmp_path: Path) -> None:
    """As openrelik-worker-common does with every qcow2."""
    with access_methods.stub(serving.address(raw), tmp_path / "disk.qcow2") as stub:
        server = ["[", "qemu-nbd", "--read-only", "--format=qcow2", str(stub.path), "]"]
        run("nbdcopy", "--", *server, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == raw.read_bytes()


def test_with_tls_a_program_reads_it_with_the_stubs_options(tls_serving: Serving, raw: Path, tmp_path: Path) -> None:
    with access_methods.stub(tls_serving.address(raw), tmp_path / "disk.qcow2") as stub:
        run("qemu-img", "convert", *stub.options, "-f", "qcow2", "-O", "raw", stub.path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == raw.read_bytes()


def test_with_tls_the_key_is_neither_in_the_stub_nor_in_the_options(
    tls_serving: Serving, raw: Path, tmp_path: Path
) -> None:
    address = tls_serving.address(raw)
    assert address.credentials is not None
    with access_methods.stub(address, tmp_path / "disk.qcow2") as stub:
        assert address.credentials.key.encode() not in stub.path.read_bytes()
        assert address.credentials.key not in " ".join(stub.options)
        without = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(stub.path), str(tmp_path / "copy")]
        assert subprocess.run(without, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("access", [Access.SCRATCH, Access.READ_WRITE])
def test_a_writable_export_is_refused_since_writes_would_stay_in_the_stub(
    serving: Serving, raw: Path, tmp_path: Path, access: Access
) -> None:
    with (
        pytest.raises(NotPossibleHere, match="read-only"),
        access_methods.stub(serving.address(raw, access), tmp_path / "stub"),
    ):
        pass


def test_a_file_that_is_there_already_is_left_alone(serving: Serving, raw: Path, tmp_path: Path) -> None:
    mine = tmp_path / "disk.qcow2"
    mine.write_text("mine")
    with pytest.raises(AccessFailed, match="File exists"), access_methods.stub(serving.address(raw), mine):
        pass
    assert mine.read_text() == "mine"


def test_an_address_that_does_not_answer_is_found_out_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(AccessFailed, match="refused"):
        with access_methods.stub(NbdAddress("nbd://127.0.0.1:1/disk"), tmp_path / "disk.qcow2"):
            pass
    assert not (tmp_path / "disk.qcow2").exists()


def test_it_is_gone_at_the_end(serving: Serving, raw: Path, tmp_path: Path) -> None:
    with access_methods.stub(serving.address(raw), tmp_path / "disk.qcow2") as stub:
        assert stub.path.exists()
    assert not stub.path.exists()


def test_a_file_that_took_its_place_is_left_alone(serving: Serving, raw: Path, tmp_path: Path) -> None:
    with access_methods.stub(serving.address(raw), tmp_path / "disk.qcow2") as stub:
        (tmp_path / "new").write_text("mine")
        (tmp_path / "new").replace(stub.path)
    assert stub.path.read_text() == "mine"
