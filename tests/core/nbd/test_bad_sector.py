"""A bad sector of a disk is an error of that sector: who reads it is told so, and goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudmanager.core.errors import TransferFailed
from cloudmanager.core.model import Access, Credentials, Tls
from cloudmanager.transfer.extents import Extent
from tests.authority import Authority
from tests.bad_sector import damaged, read_around
from tests.core.nbd.exporter import ENGINES, Exporter, MiB, device

pytestmark = [
    pytest.mark.skipif(not (shutil.which("nbdkit") and shutil.which("nbdfuse")), reason="needs nbdkit and nbdfuse"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system"),
]
BAD, LENGTH = 2 * MiB, 4096
MakeExporter = Callable[..., Exporter]


@pytest.fixture
def bad(raw: Path, tmp_path: Path) -> Iterator[Path]:
    with damaged(raw, tmp_path, BAD, LENGTH) as disk:
        yield disk


@pytest.fixture
def bad_qcow2(raw: Path, tmp_path: Path) -> Iterator[Path]:
    """Its bytes are those of `raw` in their order, behind five clusters of the format's own."""
    image = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image], check=True)
    with damaged(image, tmp_path, image.read_bytes().index(raw.read_bytes()[BAD : BAD + LENGTH]), LENGTH) as disk:
        yield disk


@dataclass(frozen=True)
class _Address:
    uri: str
    credentials: Credentials | None = None
    certificates: Path | None = None


@pytest.mark.parametrize("access", [Access.READ_ONLY, Access.SCRATCH, Access.READ_WRITE])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_bad_sector_of_a_raw_disk_is_an_error_of_its_own(
    make_exporter: MakeExporter, raw: Path, tmp_path: Path, access: Access, engine: str
) -> None:
    with damaged(raw, tmp_path, BAD, LENGTH, is_writable=access.writes_disk) as disk:
        served = make_exporter(engine=engine).export(device(disk), access)
        read_around(_Address(served.uri), raw.read_bytes(), BAD, in_one_piece=True)


def test_a_bad_sector_below_a_container_is_an_error_of_its_own(bad_qcow2: Path, exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(bad_qcow2, "qcow2", size_bytes=4 * MiB))
    read_around(_Address(served.uri), raw.read_bytes(), BAD, in_one_piece=True)


@pytest.mark.parametrize("tls", list(Tls))
def test_any_connection_to_a_raw_disk_that_is_only_read_outlives_a_bad_sector(
    bad: Path, make_exporter: MakeExporter, raw: Path, tmp_path: Path, tls: Tls
) -> None:
    authority = Authority()
    exporter = make_exporter(tls=tls.value, tls_certificates=authority.server(tmp_path / "server"))
    served = exporter.export(device(bad))
    mine = authority.client(tmp_path / "mine") if tls is Tls.X509 else None
    address = _Address(served.uri, exporter.servers.credentials(served.id), mine)
    read_around(address, raw.read_bytes(), BAD, in_one_piece=False)


@pytest.mark.parametrize("access", [Access.READ_ONLY, Access.SCRATCH])
def test_the_services_own_connection_outlives_it(bad: Path, exporter: Exporter, access: Access) -> None:
    served = exporter.export(device(bad), access)
    with exporter.servers.transfer(served.id, served.spec.name, served.port) as transfer:
        for _ in range(2):
            with pytest.raises(TransferFailed, match=f"Bytes {BAD} to {BAD + MiB - 1} cannot all be read"):
                transfer.digests(Extent(BAD, MiB))
            assert transfer.digests(Extent(0, BAD))
