"""The emulators as a program: what it prints makes a cloudmanager work, and at the end everything is undone."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from cloudmanager.cli.block_devices import loop_devices

COMMAND = (sys.executable, "-m", "cloudmanager", "testing", "cloud")
KINDS = ("gce", "ec2", "azure")
FIND = """
import sys, tomllib
from cloudmanager import Query
from cloudmanager.core.plugins import Plugins
plugins = Plugins()
plugins.configure(tomllib.loads(sys.argv[1])["providers"])
(provider,) = plugins
(disk,) = provider.find(Query(text="evidence-7")).items
print(provider.node().name, "has found", disk.id, disk.description)
"""


@dataclass(frozen=True)
class Running:
    """An emulator, and what it printed."""

    process: subprocess.Popen[str]
    variables: dict[str, str]
    configuration: str
    url: str

    def find(self) -> str:
        """What a cloudmanager with that configuration and environment sees."""
        answer = subprocess.run(
            [sys.executable, "-c", FIND, self.configuration],
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return answer.stdout.strip() or answer.stderr


@contextmanager
def emulator(kind: str, temporary: Path, *options: str) -> Iterator[Running]:
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [*COMMAND, kind, "--pace", "0", *options], stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        try:
            yield _read(process)
        finally:
            process.terminate()


def _read(process: subprocess.Popen[str]) -> Running:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "/_control/" in line:
            break
    exports = [line.removeprefix("export ").strip() for line in lines if line.startswith("export ")]
    variables = dict(line.split("=", 1) for line in exports)
    configuration = "".join(line for line in lines if not line.startswith("export "))
    return Running(process, variables, configuration, lines[-1].split()[-1].removesuffix("/_control/"))


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    directory = tmp_path / "temporary"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("kind", KINDS)
def test_what_it_prints_works_and_at_the_end_everything_is_undone(
    kind: str, number: signal.Signals, temporary: Path
) -> None:
    with emulator(kind, temporary) as cloud:
        assert re.fullmatch(r"\S+ has found .*evidence-7.*", cloud.find())
        assert loop_devices(temporary) != []
        cloud.process.send_signal(number)
        assert cloud.process.wait(20) == 0
    assert loop_devices(temporary) == []
    assert list(temporary.iterdir()) == []


def test_a_directory_that_is_named_keeps_the_bytes_of_its_disks(temporary: Path) -> None:
    kept = temporary / "kept"
    with emulator("ec2", temporary, "--directory", str(kept)) as cloud:
        cloud.process.terminate()
        assert cloud.process.wait(20) == 0
    assert list((kept / "disks").iterdir()) != []
    assert loop_devices(temporary) == []


def test_faults_are_injected_from_outside(temporary: Path) -> None:
    with emulator("ec2", temporary) as cloud, httpx.Client(base_url=cloud.url, trust_env=False) as control:
        fault = {"operation": "AttachVolume", "effect": "throttle", "times": 2, "retry_after": 5}
        control.post("/_control/faults", json=fault).raise_for_status()
        (listed,) = control.get("/_control/faults").json()["items"]
        assert (listed["operation"], listed["effect"], listed["times"]) == ("AttachVolume", "throttle", 2)


def test_a_port_that_is_taken_is_said_to_be_so(temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [*COMMAND, "ec2", "--directory", str(temporary / "d"), "--port", str(taken.getsockname()[1])]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 1
    assert "Address already in use" in answer.stderr
    assert "Traceback" not in answer.stderr
