"""The runner, tiny: every kind of figure is there afterwards, and nothing else is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.figures import Figures
from benchmarks.rig import leftovers
from benchmarks.shown import SHOWN
from benchmarks.tables import MEASURES
from tests.checkout import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="the benchmarks need root"),
]


def started(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def left_by(pid: int) -> list[str]:
    """What bears the number of the benchmark's process."""
    mark = f"{leftovers.MARK}-{pid}-"
    found = [*Path("/sys/fs/cgroup").glob(f"**/{mark}*"), *leftovers.BULK.glob(f"{mark}*")]
    lists = (["ip", "-br", "link"], ["ip", "netns", "list"], ["losetup", "--list"], ["ps", "-ewwo", "args"])
    left = [line for arguments in lists for line in output(*arguments) if f"cmb{pid}" in line or mark in line]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if mark in line]
    return [*map(str, found), *left, *mounts]


def output(*arguments: str) -> list[str]:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.parametrize("table", sorted(MEASURES))
def test_a_quick_run_measures_everything_that_is_shown_and_cleans_up(table: str, tmp_path: Path) -> None:
    with started(table, "--quick", "--results", tmp_path) as run:
        assert run.stdout
        output = run.stdout.read()
    assert run.returncode == 0, output
    figures = Figures.load(tmp_path / f"{table}.json")
    assert figures.is_quick
    assert SHOWN[table].meaning(figures)
    assert left_by(run.pid) == []


def test_a_run_that_is_terminated_cleans_up(tmp_path: Path) -> None:
    run = stopped("control", "500 exports", signal.SIGTERM, tmp_path)
    assert run.returncode != 0
    assert left_by(run.pid) == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_has_left_is_swept_by_the_next_one(tmp_path: Path) -> None:
    killed = stopped("reading", "one reader", signal.SIGKILL, tmp_path)
    assert left_by(killed.pid) != []
    stopped("control", "one at a time", signal.SIGTERM, tmp_path)
    assert left_by(killed.pid) == []


def stopped(table: str, case: str, how: signal.Signals, results: Path) -> subprocess.Popen[str]:
    """A run that was sent a signal as soon as it had measured a case, and has ended."""
    with started(table, "--quick", "--results", results) as run:
        assert run.stdout
        while case not in (line := run.stdout.readline()):
            assert line, "it ended before"
        os.kill(run.pid, how)
    return run
