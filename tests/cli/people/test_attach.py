"""A disk is mounted while `attach` runs, and only then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.people.conftest import Run
from tests.client.daemon import Daemon, eventually

DISK = "local:system.img"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
Start = Callable[..., subprocess.Popen[str]]


def attached(start: Start, directory: Path) -> tuple[subprocess.Popen[str], dict[str, str]]:
    directory.mkdir()
    process = start("attach", DISK, str(directory), "--json")
    assert process.stdout
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":
            return process, json.loads(text)
    raise AssertionError(process.communicate()[1])


@as_root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_files_are_there_until_it_is_told_to_let_go(
    start: Start, daemon: Daemon, tmp_path: Path, number: signal.Signals
) -> None:
    process, answer = attached(start, tmp_path / "mnt")
    assert (tmp_path / "mnt" / "hello.txt").read_text() == "from inside the disk\n"
    process.send_signal(number)
    process.communicate(timeout=60)
    assert not (tmp_path / "mnt" / "hello.txt").exists()
    eventually(lambda: daemon.state_of(answer["export"]) == "closed")


@as_root
def test_a_person_is_told_what_the_disk_has_and_where_it_is(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    process = start("attach", DISK, str(tmp_path / "mnt"))
    assert process.stdout
    said = ""
    while "Ctrl-C" not in said:
        said += process.stdout.readline() or pytest.fail(str(process.communicate()))
    assert all(word in said for word in ("ext4", "16 MiB", "evidence", f"Read-only at {tmp_path / 'mnt'}"))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_a_directory_that_is_not_there_is_wrong_usage_and_asks_for_nothing(people: Run, daemon: Daemon) -> None:
    before = len(daemon.exports())
    answer = people("attach", DISK, "/no/such/directory")
    assert answer.returncode == 2
    assert "/no/such/directory is no directory to mount at" in answer.stderr
    assert len(daemon.exports()) == before


@as_root
def test_an_export_that_is_lost_ends_it_with_an_error(start: Start, daemon: Daemon, tmp_path: Path) -> None:
    process, answer = attached(start, tmp_path / "mnt")
    daemon.release(answer["export"])
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cloudmanager: " in said
    assert "Traceback" not in said
    assert not list((tmp_path / "mnt").iterdir())


@as_root
def test_what_a_killed_one_left_behind_is_cleaned_up(start: Start, people: Run, tmp_path: Path, daemon: Daemon) -> None:
    process, answer = attached(start, tmp_path / "mnt")
    process.kill()
    process.wait()
    answered = people("cleanup")
    assert answered.returncode == 0, answered.stderr
    assert "undone: " in answered.stdout
    assert not list((tmp_path / "mnt").iterdir())
    assert people("cleanup").stdout == "There is nothing to undo.\n"
    daemon.release(answer["export"])
