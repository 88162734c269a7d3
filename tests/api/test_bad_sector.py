"""A bad sector of a disk that is exported over HTTP, by a service with its default settings."""

import os
import shutil
from pathlib import Path

import pytest

from cloudmanager.core.nbd.transfer import LocalAddress
from tests.api.service import running, settings_for
from tests.bad_sector import damaged, read_around

MiB = 1 << 20
BAD, LENGTH, SIZE = 2 * MiB, 4096, 4 * MiB


@pytest.mark.skipif(not (shutil.which("nbdkit") and shutil.which("nbdfuse")), reason="needs nbdkit and nbdfuse")
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_who_reads_a_bad_sector_gets_an_error_and_goes_on(tmp_path: Path) -> None:
    content = os.urandom(SIZE)
    (tmp_path / "whole").write_bytes(content)
    with damaged(tmp_path / "whole", tmp_path, BAD, LENGTH) as disk:
        settings = settings_for(tmp_path, providers={"local": {"type": "local", "images": [str(disk.parent)]}})
        with running(settings) as service:
            export = service.export(f"local:{disk.name}")
            assert export["state"] == "ready", export
            read_around(LocalAddress(str(export["uri"]), None), content, BAD, in_one_piece=False)
