"""The runner, tiny: every kind of figure is there afterwards, and nothing else is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.figures import Figures
from benchmarks.shown import SHOWN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="the benchmarks need root"),
]

ROOT = Path(__file__).parents[2]


def started(*words: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def leftovers(pid: int) -> list[str]:
    """What bears the number of the benchmark's process."""
    groups = [str(found) for found in Path("/sys/fs/cgroup").glob(f"*/cloudmanager-bench-{pid}-*")]
    links = subprocess.run(["ip", "-br", "link"], check=True, capture_output=True, text=True).stdout
    return [*groups, *(line for line in links.splitlines() if f"cmb{pid}" in line)]


@pytest.mark.parametrize("table", ["servers", "control", "reading", "deploying"])
def test_a_quick_run_measures_everything_that_is_shown_and_cleans_up(table: str, tmp_path: Path) -> None:
    with started(table, "--quick", "--results", tmp_path) as run:
        assert run.stdout
        said = run.stdout.read()
    assert run.returncode == 0, said
    figures = Figures.load(tmp_path / f"{table}.json")
    assert figures.is_quick
    assert SHOWN[table].meaning(figures)
    assert leftovers(run.pid) == []


def test_a_run_that_is_terminated_cleans_up(tmp_path: Path) -> None:
    with started("control", "--quick", "--results", tmp_path) as run:
        assert run.stdout
        while "500 exports" not in (line := run.stdout.readline()):
            assert line, "it ended before"
        os.kill(run.pid, signal.SIGTERM)
    assert run.returncode != 0
    assert leftovers(run.pid) == []
    assert list(tmp_path.iterdir()) == []
