"""The demo through each emulated cloud: what it shows, and that it leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cloudmanager.cli.block_devices import loop_devices
from cloudmanager.cli.demo.leftovers import processes
from tests.cli.conftest import worked_seconds

COMMAND = (sys.executable, "-m", "cloudmanager", "demo", "--cloud")
CLOUDS = {"gce": "instances.attachDisk", "aws": "AttachVolume", "azure": "VirtualMachines_AttachDetachDataDisks/attach"}
CREDENTIALS_OF_REAL_CLOUDS = {
    "AWS_PROFILE": "production",
    "AWS_ACCESS_KEY_ID": "AKIAREALREALREALREAL",
    "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/production.json",
    "AZURE_CLIENT_ID": "9c4d3a9e-0000-4000-8000-000000000000",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
}


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """Where the demo keeps its files; afterwards, nothing is left of it."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    yield directory
    assert list(directory.iterdir()) == []
    assert processes(str(directory)) == {}
    assert loop_devices(directory) == []


def _environment(temporary: Path) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDMANAGER_")}
    return {**kept, **CREDENTIALS_OF_REAL_CLOUDS, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize(
    ("cloud", "attach"),
    [pytest.param(*item, marks=[pytest.mark.slow] if item[0] != "gce" else []) for item in CLOUDS.items()],
)
def test_it_goes_the_whole_way(temporary: Path, cloud: str, attach: str) -> None:
    """Also on a machine that has credentials and a proxy of its own.

    It must take less than 30 seconds on a machine that has nothing else to do: what it works, and five that it waits.
    """
    worked_before = worked_seconds()
    answer = subprocess.run(
        [*COMMAND, cloud], env=_environment(temporary), capture_output=True, text=True, timeout=100, check=False
    )
    assert (answer.returncode, answer.stderr) == (0, ""), answer.stdout
    assert worked_seconds() - worked_before < 25
    assert len(re.findall(r"ready after \d+ ms: nbd://127\.0\.0\.1:\d+/", answer.stdout)) == 3
    assert f"✓ the cloud was asked once ({attach}): evidence-7 is attached to worker-1" in answer.stdout
    assert "✓ SHA-256 is the same" in answer.stdout
    assert "✓ This line was read from a file system" in answer.stdout
    assert "✓ clara still has it: it stays attached" in answer.stdout
    assert "is gone, and the cloud says evidence-7 is free" in answer.stdout
    assert "✓ nothing is left: no process, no loop device, no file" in answer.stdout


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=lambda number: number.name
)
@pytest.mark.parametrize("at", [pytest.param("Start an emulated cloud", marks=pytest.mark.slow), "ready after"])
def test_interrupted_it_cleans_everything_up(temporary: Path, number: signal.Signals, at: str) -> None:
    with subprocess.Popen(
        [*COMMAND, "aws"], env=_environment(temporary), stdout=subprocess.PIPE, text=True
    ) as demonstration:
        assert demonstration.stdout is not None
        next(line for line in demonstration.stdout if at in line)
        demonstration.send_signal(number)
        demonstration.communicate(timeout=60)
    assert demonstration.returncode == 130


def test_without_root_it_says_what_it_needs(temporary: Path) -> None:
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    code = (
        "from cloudmanager.cli.block_devices import require_block_devices\n"
        "from cloudmanager.core.errors import SetupError\n"
        "try: require_block_devices()\n"
        "except SetupError as error: print(error.detail)"
    )
    answer = subprocess.run(
        [*as_nobody, sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd="/"
    )
    assert "only root can make" in answer.stdout


def test_an_unknown_cloud_is_refused_with_the_known_ones(temporary: Path) -> None:
    answer = subprocess.run([*COMMAND, "ec2"], capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 2
    assert "'gce', 'aws', 'azure'" in answer.stderr
