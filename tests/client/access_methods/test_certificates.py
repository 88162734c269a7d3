"""Ways to an export whose server asks for a certificate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cloudmanager.client import access_methods
from cloudmanager.client.access_methods.errors import AccessFailed
from cloudmanager.client.address import VARIABLE, address_of, directory_of
from cloudmanager.client.errors import InvalidSetup
from cloudmanager.core.model import Access
from tests.authority import Authority
from tests.client.access_methods.disks import run
from tests.client.access_methods.serving import Serving


def test_the_file_is_read_and_written(x509_serving: Serving, raw: Path) -> None:
    with access_methods.file(x509_serving.address(raw, Access.READ_WRITE)) as disk, disk.path.open("r+b") as file:
        assert file.read() == raw.read_bytes()
        file.seek(0)
        file.write(b"written")
    assert raw.read_bytes().startswith(b"written")


def test_a_program_reads_the_stub_with_its_options(x509_serving: Serving, raw: Path, tmp_path: Path) -> None:
    with access_methods.stub(x509_serving.address(raw), tmp_path / "disk.qcow2") as stub:
        run("qemu-img", "convert", *stub.options, "-f", "qcow2", "-O", "raw", stub.path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == raw.read_bytes()


def test_they_are_found_by_the_environment(x509_serving: Serving, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(x509_serving.certificates))
    with access_methods.file(replace(x509_serving.address(raw), certificates=None)) as disk:
        assert disk.path.read_bytes() == raw.read_bytes()


def test_they_are_found_by_a_uri_as_people_write_it(x509_serving: Serving, raw: Path) -> None:
    address = address_of(f"{x509_serving.address(raw).uri}?tls-certificates={x509_serving.certificates}")
    with access_methods.file(address) as disk:
        assert disk.path.read_bytes() == raw.read_bytes()


def test_without_any_it_is_said_where_they_are_looked_for(
    x509_serving: Serving, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(AccessFailed, match=f"set {VARIABLE} to a directory with ca-cert.pem"):
        with access_methods.file(replace(x509_serving.address(raw), certificates=None)):
            pass


def test_a_file_that_is_missing_is_named(x509_serving: Serving, raw: Path) -> None:
    assert x509_serving.certificates is not None
    (x509_serving.certificates / "client-key.pem").unlink()
    with pytest.raises(InvalidSetup, match=r"has no client-key\.pem"), access_methods.file(x509_serving.address(raw)):
        pass


def test_those_of_another_authority_are_refused(x509_serving: Serving, raw: Path, tmp_path: Path) -> None:
    stranger = Authority("lab").client(tmp_path / "stranger")
    with pytest.raises(AccessFailed, match="nbdfuse: "):
        with access_methods.file(replace(x509_serving.address(raw), certificates=stranger)):
            pass


@pytest.mark.parametrize("uri", ["nbd://127.0.0.1:1/disk", "nbds://worker@127.0.0.1:1/disk?tls-psk-file={keys}"])
def test_they_are_not_looked_for_where_none_are_wanted(uri: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("worker:00ff\n")
    address = address_of(uri.format(keys=tmp_path / "keys"))
    assert directory_of(address, {VARIABLE: str(tmp_path / "missing")}) is None
