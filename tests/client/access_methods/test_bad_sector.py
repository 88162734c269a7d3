"""A bad sector of a disk is an error of that sector in the file, too."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from cloudmanager.client import access_methods
from tests.bad_sector import damaged
from tests.client.access_methods.serving import Serving

pytestmark = [
    pytest.mark.skipif(not (shutil.which("nbdkit") and shutil.which("nbdfuse")), reason="needs nbdkit and nbdfuse"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system"),
]
BAD, LENGTH = 5 * 64 * 1024, 4096


@pytest.mark.parametrize("kind", ["serving", "tls_serving", "x509_serving"])
def test_who_reads_it_gets_an_error_and_goes_on(
    kind: str, request: pytest.FixtureRequest, raw: Path, tmp_path: Path
) -> None:
    serving: Serving = request.getfixturevalue(kind)
    content = raw.read_bytes()
    (tmp_path / "bad").mkdir()
    with damaged(raw, tmp_path / "bad", BAD, LENGTH) as image:
        with access_methods.file(serving.address(image)) as disk, disk.path.open("rb", buffering=0) as file:
            for _ in range(2):
                with pytest.raises(OSError, match="Input/output error") as caught:
                    os.pread(file.fileno(), LENGTH, BAD)
                assert caught.value.errno == errno.EIO
            for offset in (0, BAD - LENGTH, BAD + LENGTH, len(content) - LENGTH):
                assert os.pread(file.fileno(), LENGTH, offset) == content[offset : offset + LENGTH]
            assert not disk.is_lost
        serving.exporter.stop_all()
