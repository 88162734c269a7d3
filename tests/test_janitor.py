"""What a pytest that is killed leaves behind goes by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import janitor
from tests.checkout import ROOT
from tests.janitor import Janitor
from tests.waiting import eventually

_KILLED = """
import os, signal, subprocess, sys
from pathlib import Path
from tests.janitor import Janitor
directory = Path(sys.argv[1])
Janitor(directory)
log = (directory / "log").open("w")
with_a_child = "(exec sleep 60 > /dev/null) & wait"
by_its_file = subprocess.Popen(["sh", "-c", with_a_child], stdout=log, cwd=directory)
by_its_words = subprocess.Popen(["sh", "-c", "read -r line", "sh", directory / "x"], stdin=subprocess.PIPE)
print(by_its_file.pid, flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


def _mounted(path: Path) -> bool:
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


def _has_ended(pid: int) -> bool:
    """Its new parent may not have reaped it yet."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or ") Z " in stat.read_text()


def _using(path: Path) -> list[str]:
    arguments = subprocess.run(["pgrep", "-f", "--", str(path)], check=False, capture_output=True, text=True).stdout
    return arguments.split()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts a file system")
def test_processes_and_mounts_of_a_process_that_was_killed_end(tmp_path: Path) -> None:
    used = tmp_path / "used"
    (used / "mounted").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", used / "mounted"], check=True)
    command = [sys.executable, "-c", _KILLED, str(used)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout
        shell = int(killed.stdout.readline())
        eventually(lambda: Path(f"/proc/{shell}/task/{shell}/children").read_text())
        child = int(Path(f"/proc/{shell}/task/{shell}/children").read_text())
        killed.communicate(b"\n")
    eventually(lambda: not _mounted(used / "mounted"))
    eventually(lambda: not _using(used))
    eventually(lambda: _has_ended(child))


def test_one_that_is_dismissed_leaves_all_as_it_is_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "_PATIENCE_SECONDS", 0)
    used = Janitor(tmp_path / "used")
    with subprocess.Popen(["sh", "-c", "read -r line", "sh", tmp_path / "used"], stdin=subprocess.PIPE) as user:
        assert used.dismiss() == [f"process {user.pid}: sh -c read -r line sh {tmp_path}/used"]
        assert user.poll() is None
    assert Janitor(tmp_path / "used").dismiss() == []
