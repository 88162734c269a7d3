"""The emulator as a program: it says how to use it, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudmanager.cli.block_devices import loop_devices
from cloudmanager.core.model import DiskId
from cloudmanager.core.plugins import Plugins
from cloudmanager.providers import aws

PROGRAM = """
from pathlib import Path
from cloudmanager.testing.cloud import run
run("ec2", Path({directory!r}), pace=0)
"""


@contextmanager
def running(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """The program, which is asked to end whatever happens, because it has loop devices."""
    command = [sys.executable, "-c", PROGRAM.format(directory=str(directory))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.send_signal(signal.SIGTERM)


def printed(program: subprocess.Popen[str]) -> list[str]:
    assert program.stdout is not None
    lines: list[str] = []
    for line in program.stdout:
        lines.append(line)
        if "_control" in line:
            return lines
    raise AssertionError(f"the program ended early: {lines}")


def test_what_it_prints_is_a_configuration_and_at_the_end_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as program:
        lines = printed(program)
        for line in lines:
            if line.startswith("export "):
                monkeypatch.setenv(*line.removeprefix("export ").strip().split("=", 1))
        plugins = Plugins([("aws", aws)])
        configuration = "".join(line for line in lines if not line.startswith("export "))
        plugins.configure(tomllib.loads(configuration)["providers"])
        (provider,) = plugins
        disk = lines[0].split()[-1].rstrip(".")
        assert provider.describe(DiskId(provider.name, disk)).description == "evidence-7"
    assert program.returncode == os.EX_OK
    assert loop_devices(tmp_path) == []
