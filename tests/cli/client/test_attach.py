"""A disk is mounted while `attach` runs, and only then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.client.conftest import Run
from tests.client.daemon import Daemon
from tests.waiting import eventually

DISK = "local:system.img"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
Start = Callable[..., subprocess.Popen[str]]
ENDS = [
    signal.SIGINT,
    signal.SIGHUP,
    *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGTERM, signal.SIGQUIT)),
]


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
@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
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
    shown_output = ""
    while "Ctrl-C" not in shown_output:
        shown_output += process.stdout.readline() or pytest.fail(str(process.communicate()))
    assert all(word in shown_output for word in ("ext4", "16 MiB", "evidence", f"Read-only at {tmp_path / 'mnt'}"))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_a_directory_that_is_not_there_is_wrong_usage_and_asks_for_nothing(people: Run, daemon: Daemon) -> None:
    before = len(daemon.exports())
    answer = people("attach", DISK, "/no/such/directory")
    assert answer.returncode == 2
    assert "/no/such/directory is not a directory, so nothing can be mounted there" in answer.stderr
    assert len(daemon.exports()) == before


@as_root
def test_an_export_that_is_lost_ends_it_with_an_error(start: Start, daemon: Daemon, tmp_path: Path) -> None:
    process, answer = attached(start, tmp_path / "mnt")
    daemon.release(answer["export"])
    _, shown_output = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cloudmanager: " in shown_output
    assert "Traceback" not in shown_output
    assert not list((tmp_path / "mnt").iterdir())


@as_root
def test_what_a_killed_one_left_behind_is_cleaned_up(start: Start, people: Run, tmp_path: Path, daemon: Daemon) -> None:
    process, answer = attached(start, tmp_path / "mnt")
    assert people("cleanup").stdout == "There is nothing to undo.\n"
    process.kill()
    process.wait()
    answered = people("cleanup")
    assert answered.returncode == 0, answered.stderr
    *others, last = answered.stdout.splitlines()
    assert any("mounted" in line for line in others)
    assert last == f"undone: export {answer['export']} of {DISK} at {daemon.url}"
    assert not list((tmp_path / "mnt").iterdir())
    eventually(lambda: daemon.state_of(answer["export"]) == "closed")
    assert people("cleanup").stdout == "There is nothing to undo.\n"


def killed_run(start: Start, daemon: Daemon) -> str:
    """The id of the export that `run` had."""
    process = start("run", "local:plain.img", "--", "sh", "-c", "echo begun; exec sleep 600 # {uri}")
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    [export_id] = [str(export["id"]) for export in daemon.exports() if export["state"] == "ready"]
    [tool] = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.kill()
    process.wait()
    os.kill(tool, signal.SIGKILL)
    return export_id


def test_the_export_of_a_killed_run_is_released_once_its_service_answers(
    start: Start, people: Run, daemon: Daemon
) -> None:
    export_id = killed_run(start, daemon)
    daemon.stop()
    failed = people("cleanup")
    assert failed.returncode == 1
    assert export_id in failed.stderr
    assert "gave no answer" in failed.stderr
    daemon.started()
    assert daemon.state_of(export_id) == "ready"
    assert people("cleanup").stdout == f"undone: export {export_id} of local:plain.img at {daemon.url}\n"
    assert daemon.state_of(export_id) in ("closing", "closed")


def test_an_export_that_is_over_already_is_undone(start: Start, people: Run, daemon: Daemon) -> None:
    export_id = killed_run(start, daemon)
    daemon.release(export_id)
    assert export_id in people("cleanup").stdout
    assert people("cleanup").stdout == "There is nothing to undo.\n"


def in_terminal(environment: dict[str, str], *command: str) -> tuple[subprocess.Popen[bytes], int]:
    """A process whose terminal is lost when the descriptor is closed."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *command], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    return process, ours


def read_until(terminal: int, text: bytes) -> None:
    shown_output = b""
    while text not in shown_output:
        shown_output += os.read(terminal, 4096)


@as_root
def test_a_lost_terminal_undoes_it(environment: dict[str, str], daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    command = [sys.executable, "-m", "cloudmanager", "attach", DISK, str(tmp_path / "mnt")]
    process, terminal = in_terminal(environment, *command)
    read_until(terminal, b"Ctrl-C")
    os.close(terminal)
    # What it was writing at that moment may fail first, as the output of any command.
    assert process.wait(60) in (128 + signal.SIGHUP, 1)
    assert not list((tmp_path / "mnt").iterdir())
    eventually(lambda: all(export["state"] != "ready" for export in daemon.exports()))


def test_a_lost_terminal_ends_a_run(environment: dict[str, str], daemon: Daemon) -> None:
    tool = ["sh", "-c", "trap '' HUP; echo begun; exec sleep 600 # {uri}"]
    command = [sys.executable, "-m", "cloudmanager", "run", "local:plain.img", "--", *tool]
    process, terminal = in_terminal(environment, *command)
    read_until(terminal, b"begun")
    os.close(terminal)
    assert process.wait(60) == 128 + signal.SIGHUP
    eventually(lambda: all(export["state"] != "ready" for export in daemon.exports()))


def test_what_nohup_started_goes_on(environment: dict[str, str], daemon: Daemon, tmp_path: Path) -> None:
    tool = ["sh", "-c", "echo begun; read -r line; echo $line; exit 7 # {uri}"]
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "cloudmanager", "run", "local:plain.img", "--", *tool],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate("went on\n", timeout=60)[0] == "went on\n"
    assert process.returncode == 7
