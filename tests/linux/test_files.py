"""Small files that are written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from cloudmanager.linux.files import write_whole


def test_a_file_is_replaced_and_private(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    path.write_text("old")
    path.chmod(0o644)
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_an_earlier_attempt_has_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "identity.new").symlink_to(tmp_path / "elsewhere")
    write_whole(tmp_path / "identity.json", "new")
    assert (tmp_path / "identity.json").read_text() == "new"
    assert not (tmp_path / "elsewhere").exists()


def test_the_content_is_on_the_disk_before_the_name_leads_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "identity.json", []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append((stat.S_ISREG(os.fstat(descriptor).st_mode), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    write_whole(path, "new")
    assert synced == [(True, False), (False, True)]
