"""Any tool, on a disk that is there while it runs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.cli.client import running
from cloudmanager.client.signals import unwinding_on_sigterm
from tests.cli.client.conftest import PLAIN, Run
from tests.client.daemon import Daemon
from tests.waiting import eventually

DISK = "local:plain.img"
Start = Callable[..., subprocess.Popen[str]]


def live(daemon: Daemon) -> list[object]:
    return [export["id"] for export in daemon.exports() if export["state"] not in ("closed", "failed")]


@pytest.mark.parametrize("place", ["{file}", "{disk}"])
def test_a_tool_reads_the_disk_as_a_file_and_everything_is_gone_afterwards(
    people: Run, daemon: Daemon, place: str
) -> None:
    answer = people("run", DISK, "--", "sha256sum", place)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split()[0] == hashlib.sha256(PLAIN).hexdigest()
    eventually(lambda: not live(daemon))


def test_a_tool_reads_the_stub_or_the_address(people: Run) -> None:
    stub = people("run", DISK, "--", "qemu-img", "info", "{stub}")
    assert "file format: qcow2" in stub.stdout
    uri = people("run", DISK, "--", "nbdinfo", "--size", "{uri}")
    assert uri.stdout == f"{len(PLAIN)}\n"


def test_the_exit_code_is_the_tools(people: Run) -> None:
    assert people("run", DISK, "--", "sh", "-c", "exit 7 # {uri}").returncode == 7
    assert people("run", DISK, "--", "sh", "-c", "kill -9 $$ # {uri}").returncode == 128 + signal.SIGKILL


def test_a_script_is_told_as_json_what_the_tool_ran_on_and_how_it_ended(people: Run) -> None:
    answer = people("run", DISK, "--json", "--", "sh", "-c", "echo found; exit 7 # {stub}")
    assert (answer.returncode, answer.stdout) == (7, "found\n")
    reported = json.loads(answer.stderr.splitlines()[-1])
    assert (reported["disk"], reported["status"]) == (DISK, 7)
    assert reported["places"]["stub"].endswith(".qcow2")


def test_a_scratch_disk_can_be_written_and_the_disk_stays_as_it_was(people: Run, daemon: Daemon) -> None:
    command = "printf changed | dd of={file} conv=notrunc 2>/dev/null && head -c 7 {file}"
    answer = people("run", DISK, "--access", "scratch", "--", "sh", "-c", command)
    assert answer.stdout == "changed", answer.stderr
    assert (daemon.images / "plain.img").read_bytes() == PLAIN


def test_a_command_that_does_not_name_the_disk_is_wrong_usage_and_asks_for_nothing(people: Run, daemon: Daemon) -> None:
    before = len(daemon.exports())
    answer = people("run", DISK, "--", "ls")
    assert answer.returncode == 2
    assert "{file}" in answer.stderr
    assert len(daemon.exports()) == before


def test_a_program_that_does_not_exist_is_wrong_usage_and_asks_for_nothing(people: Run, daemon: Daemon) -> None:
    before = len(daemon.exports())
    answer = people("run", DISK, "--", "no-such-program", "{uri}")
    assert answer.returncode == 2
    assert "no-such-program cannot be run" in answer.stderr
    assert len(daemon.exports()) == before


def test_a_file_that_is_no_program_gives_the_disk_back(people: Run, daemon: Daemon, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    answer = people("run", DISK, "--", str(script), "{uri}")
    assert answer.returncode == 2
    assert f"{script} cannot be run" in answer.stderr
    eventually(lambda: not live(daemon))


def test_sigterm_ends_the_tool_and_gives_the_disk_back(start: Start, daemon: Daemon) -> None:
    process = start("run", DISK, "--", "sh", "-c", "echo begun; exec sleep 600 # {uri}")
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    process.terminate()
    process.communicate(timeout=60)
    eventually(lambda: not live(daemon))


def test_a_signal_that_comes_while_the_tool_is_being_started_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Signalled(subprocess.Popen[bytes]):
        def __init__(self, command: list[str]) -> None:
            super().__init__(command)
            started.append(self)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Signalled)
    with pytest.raises(SystemExit), unwinding_on_sigterm(), running._Command() as command:
        command.run(["sleep", "600"])
    assert started[0].poll() == -signal.SIGTERM


def test_a_signal_before_the_tool_is_there_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted `Thread.join` would take the thread for ended that starts it."""
    started: list[subprocess.Popen[bytes]] = []

    class Slow(subprocess.Popen[bytes]):
        def __init__(self, command: list[str]) -> None:
            handler = signal.getsignal(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            eventually(lambda: signal.getsignal(signal.SIGTERM) is not handler)
            time.sleep(0.3)  # nothing tells that the main thread waits for this
            super().__init__(command)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Slow)
    with pytest.raises(SystemExit), unwinding_on_sigterm(), running._Command() as command:
        command.run(["sleep", "600"])
    assert started[0].poll() == -signal.SIGTERM


def test_a_lost_disk_ends_the_tool_with_an_error(start: Start, daemon: Daemon) -> None:
    process = start("run", DISK, "--", "sh", "-c", "echo begun; exec sleep 600 # {uri}")
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    [export_id] = live(daemon)
    daemon.release(str(export_id))
    _, output = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.startswith("cloudmanager: ")
