"""Small files that are written whole or not at all."""

import os
import stat
import threading
from pathlib import Path

import pytest

from cloudmanager.linux.files import lock, open_private, replacing, try_lock, write_whole


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


def test_bytes_are_written_without_waiting_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fsync")
    write_whole(tmp_path / "key", b"\xff", is_durable=False)
    assert (tmp_path / "key").read_bytes() == b"\xff"


def test_an_attempt_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("old")
    with pytest.raises(TypeError), replacing(tmp_path / "key") as file:
        file.write("no bytes")  # type: ignore[call-overload]
    assert (tmp_path / "key").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "key"]


def test_a_lock_is_taken_once_or_shared(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as first, (tmp_path / "lock").open("r") as second:
        assert try_lock(first.fileno(), is_shared=True)
        assert try_lock(second.fileno(), is_shared=True)
        assert not try_lock(second.fileno())


def test_a_lock_that_is_released_in_time_is_taken(tmp_path: Path) -> None:
    first = (tmp_path / "lock").open("w")
    with (tmp_path / "lock").open("r") as second:
        assert try_lock(first.fileno())
        assert not lock(second.fileno(), 0)
        threading.Timer(0.1, first.close).start()
        assert lock(second.fileno(), 60)


def test_a_private_file_and_its_directory_are_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal"
    os.close(open_private(path))
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path)] == [0o700, 0o600]
    path.parent.chmod(0o777)
    path.chmod(0o666)
    path.write_text("kept")
    descriptor = open_private(path)
    assert os.read(descriptor, 9) == b"kept"
    os.close(descriptor)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path)] == [0o700, 0o600]


def test_a_private_file_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "journal").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic"):
        open_private(tmp_path / "journal")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("whose", ["state", "state/journal"])
def test_a_private_file_is_nobody_elses(whose: str, tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal"
    os.close(open_private(path))
    os.chown(tmp_path / whose, 65534, -1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        open_private(path)
