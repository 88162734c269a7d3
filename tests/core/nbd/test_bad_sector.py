"""A bad sector of a disk is an error of that sector: who reads it is told so, and goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.core.model import Access
from cloudmanager.core.nbd.transfer import LocalAddress
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.libnbd import Connection, Failure, Patience
from tests.bad_sector import damaged
from tests.core.nbd.exporter import Exporter, MiB, Served, device

pytestmark = [
    pytest.mark.skipif(not (shutil.which("nbdkit") and shutil.which("nbdfuse")), reason="needs nbdkit and nbdfuse"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system"),
]
BAD, LENGTH, PIECE = 2 * MiB, 4096, 64 * 1024


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


def check(served: Served, content: bytes) -> None:
    """One connection reads around the bad sector, and into it, and goes on."""
    with Connection(LocalAddress(served.uri, None), Patience()) as connection:
        buffer = Buffer()
        for _ in range(2):
            with pytest.raises(Failure) as caught:
                connection.wait(connection.start_read(buffer.address, PIECE, BAD))
            assert caught.value.errno == errno.EIO
            assert sum(extent.length for extent in connection.extents(0, len(content))) == len(content)
            for offset in (0, BAD - PIECE, BAD + PIECE, len(content) - PIECE):
                connection.wait(connection.start_read(buffer.address, PIECE, offset))
                assert bytes(buffer.view[:PIECE]) == content[offset : offset + PIECE]


@pytest.mark.parametrize("access", [Access.READ_ONLY, Access.SCRATCH])
def test_a_bad_sector_of_a_raw_disk_is_an_error_of_its_own(
    bad: Path, exporter: Exporter, raw: Path, access: Access
) -> None:
    check(exporter.export(device(bad), access), raw.read_bytes())


def test_a_bad_sector_below_a_container_is_an_error_of_its_own(bad_qcow2: Path, exporter: Exporter, raw: Path) -> None:
    check(exporter.export(device(bad_qcow2, "qcow2", size_bytes=4 * MiB)), raw.read_bytes())
