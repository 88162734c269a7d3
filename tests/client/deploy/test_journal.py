"""What is noted of a deployment outlives a crash in the middle of a note."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cloudmanager.client.deploy.errors import DeployError
from cloudmanager.client.deploy.journal import Journal, JournalHeader

HEADING = JournalHeader("image", "target", 1024, 64)


@pytest.mark.parametrize("torn", [b'{"units": {"3"', b'{"units": {"3": ""}}', b"\0" * 512, b"3\n"])
def test_a_note_that_was_cut_off_costs_neither_the_notes_before_nor_those_after_it(torn: bytes, tmp_path: Path) -> None:
    with Journal(tmp_path, HEADING) as journal:
        journal.begin("a disk")
        journal.add({1: b"one", 2: b"two"})
    with journal.path.open("ab") as file:
        file.write(torn)
    with Journal(tmp_path, HEADING) as journal:
        assert journal.is_begun
        assert journal.written == {1: b"one", 2: b"two"}
        journal.add({4: b"four"})
    with Journal(tmp_path, HEADING) as journal:
        assert journal.written == {1: b"one", 2: b"two", 4: b"four"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a file system")
def test_a_full_file_system_is_said_and_the_deployment_goes_on_when_there_is_room(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=True)
    try:
        with Journal(tmp_path, HEADING) as journal:
            journal.begin("a disk")
            journal.add({1: b"one"})
            (tmp_path / "filler").write_bytes(bytes(56 * 1024))
            with pytest.raises(DeployError, match=r"jsonl cannot be written: No space left on device\."):
                journal.add(dict.fromkeys(range(2, 3000), b"much"))
        (tmp_path / "filler").unlink()
        with Journal(tmp_path, HEADING) as journal:
            assert journal.written == {1: b"one"}
            journal.add({2: b"two"})
        with Journal(tmp_path, HEADING) as journal:
            assert journal.written == {1: b"one", 2: b"two"}
    finally:
        subprocess.run(["umount", tmp_path], check=True)
