"""A bad sector of a disk that is exported over HTTP and served by nbdkit."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from cloudmanager.core.nbd.transfer import LocalAddress
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.libnbd import Connection, Failure, Patience
from tests.api.service import running, settings_for
from tests.bad_sector import damaged

MiB = 1 << 20
BAD, LENGTH, PIECE, SIZE = 2 * MiB, 4096, 64 * 1024, 4 * MiB


@pytest.mark.skipif(not (shutil.which("nbdkit") and shutil.which("nbdfuse")), reason="needs nbdkit and nbdfuse")
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_who_reads_a_bad_sector_gets_an_error_and_goes_on(tmp_path: Path) -> None:
    content = os.urandom(SIZE)
    (tmp_path / "whole").write_bytes(content)
    with damaged(tmp_path / "whole", tmp_path, BAD, LENGTH) as disk:
        settings = settings_for(
            tmp_path, nbd={"engine": "auto"}, providers={"local": {"type": "local", "images": [str(disk.parent)]}}
        )
        with running(settings) as service:
            export = service.export(f"local:{disk.name}")
            assert export["state"] == "ready", export
            with Connection(LocalAddress(str(export["uri"]), None), Patience()) as connection:
                connection._read_flags = 0  # as other programs built on libnbd ask
                _read_around(connection, content)


def _read_around(connection: Connection, content: bytes) -> None:
    buffer = Buffer()
    for _ in range(2):
        with pytest.raises(Failure) as caught:
            connection.wait(connection.start_read(buffer.address, PIECE, BAD))
        assert caught.value.errno == errno.EIO
        assert sum(extent.length for extent in connection.extents(0, SIZE)) == SIZE
        for offset in (0, BAD - PIECE, BAD + PIECE, SIZE - PIECE):
            connection.wait(connection.start_read(buffer.address, PIECE, offset))
            assert bytes(buffer.view[:PIECE]) == content[offset : offset + PIECE]
