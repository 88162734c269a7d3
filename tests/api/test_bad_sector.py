"""A bad sector of a disk that is exported over HTTP, by a service with its default settings."""

import os
import shutil
from pathlib import Path

import pytest

from cloudmanager.core.nbd.transfer import LocalAddress
from cloudmanager.transfer.digests import BLOCK_BYTES, DIGEST_BYTES
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


@pytest.mark.parametrize("access", ["read-only", "scratch"])
def test_checksums_that_need_it_are_refused_and_others_are_taken(tmp_path: Path, access: str) -> None:
    (tmp_path / "whole").write_bytes(os.urandom(SIZE))
    with damaged(tmp_path / "whole", tmp_path, BAD, LENGTH) as disk:
        settings = settings_for(tmp_path, providers={"local": {"type": "local", "images": [str(disk.parent)]}})
        with running(settings) as service:
            path = f"/v1/exports/{service.export(f'local:{disk.name}', access)['id']}/digests"
            refused = service.client.get(path, params={"offset": BAD, "length": MiB})
            assert (refused.status_code, refused.json()["code"]) == (500, "transfer_failed")
            assert f"Bytes {BAD} to {BAD + MiB - 1} cannot all be read" in refused.json()["detail"]
            for offset in (0, BAD - MiB, BAD + MiB):
                taken = service.client.get(path, params={"offset": offset, "length": MiB})
                assert len(bytes.fromhex(taken.json()["digests"])) == MiB // BLOCK_BYTES * DIGEST_BYTES
