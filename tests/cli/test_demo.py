"""The demo on the real thing: what it shows, that it notices a wrong byte, and that it leaves nothing behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cloudmanager.cli.demo.leftovers import processes
from tests.cli.conftest import worked_seconds

COMMAND = (sys.executable, "-m", "cloudmanager", "demo")


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """Where the demo keeps its files; afterwards, nothing is left of it."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    yield directory
    assert list(directory.iterdir()) == []
    assert processes(str(directory)) == {}


def _environment(temporary: Path, **more: str) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDMANAGER_")}
    return {**kept, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1", **more}


def _run(temporary: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        COMMAND, env=_environment(temporary, **more), capture_output=True, text=True, timeout=60, check=False
    )


def test_it_goes_the_whole_way_in_under_20_seconds(temporary: Path) -> None:
    """On a machine that has nothing else to do: what it works, and what it waits."""
    before = worked_seconds()
    answer = _run(temporary)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert worked_seconds() - before < 15
    assert re.search(r"ready after \d+ ms: nbd://127\.0\.0\.1:\d+/", answer.stdout)
    assert "✓ SHA-256 is the same" in answer.stdout
    assert "✓ This line was read from a file system" in answer.stdout
    assert "✓ qemu-nbd is gone" in answer.stdout
    assert "✓ nothing is left" in answer.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("at", ["Start the service", "ready after"])
def test_interrupted_it_cleans_everything_up(temporary: Path, number: signal.Signals, at: str) -> None:
    with subprocess.Popen(COMMAND, env=_environment(temporary), stdout=subprocess.PIPE, text=True) as demo:
        output = next(line for line in demo.stdout if at in line)
        demo.send_signal(number)
        demo.communicate(timeout=30)
    assert demo.returncode == 130
    if "nbd://" in output:
        assert processes(output.strip().rpartition("/")[2]) == {}, "the qemu-nbd of its export is left"


def _client(directory: Path, script: str) -> str:
    """A PATH on which nbdcopy is another one, which may call the real one as $NBDCOPY."""
    directory.mkdir()
    path = directory / "nbdcopy"
    path.write_text(f"#!/bin/bash\nNBDCOPY={shutil.which('nbdcopy')}\n{script}\n")
    path.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def test_a_single_wrong_byte_is_noticed(temporary: Path, tmp_path: Path) -> None:
    wrong = _client(
        tmp_path / "bin", '"$NBDCOPY" "$@" && printf X | dd of="$2" bs=1 seek=40000000 conv=notrunc status=none'
    )
    answer = _run(temporary, PATH=wrong)
    assert answer.returncode == 1
    assert "✗ SHA-256" in answer.stdout
    assert "All of it worked" not in answer.stdout


def test_a_client_that_fails_is_told_with_its_own_words(temporary: Path, tmp_path: Path) -> None:
    answer = _run(temporary, PATH=_client(tmp_path / "bin", "echo 'no such server' >&2; exit 7"))
    assert answer.returncode == 1
    assert "✗ nbdcopy failed with code 7: no such server" in answer.stdout


def test_a_service_that_does_not_start_is_shown_with_its_log(
    temporary: Path, third_party: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "site" / "cloudmanager_shelf.py").write_text("import no_such_module\n")
    answer = _run(temporary, **third_party)
    assert answer.returncode == 1
    assert "The service did not start" in answer.stdout
    assert "plugin shelf of cloudmanager-shelf cannot be imported" in answer.stdout


def test_missing_programs_are_named_by_their_packages(temporary: Path, tmp_path: Path) -> None:
    answer = _run(temporary, PATH=str(tmp_path))
    assert answer.returncode == 1
    assert "apt-get install bubblewrap libnbd-bin qemu-utils" in answer.stderr
