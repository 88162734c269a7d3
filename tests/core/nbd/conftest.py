"""Export managers on real qemu-nbd, in directories of their own; whatever they started is stopped at the end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.core.nbd.exporter import Exporter, MiB


@pytest.fixture
def make_exporter(tmp_path: Path) -> Iterator[Callable[..., Exporter]]:
    made: list[Exporter] = []

    def make(**settings: Any) -> Exporter:
        made.append(Exporter(tmp_path / "exports", **settings))
        return made[-1]

    yield make
    for exporter in made:
        exporter.stop_all()


@pytest.fixture
def exporter(make_exporter: Callable[..., Exporter]) -> Exporter:
    return make_exporter()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """4 MiB of random bytes."""
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(4 * MiB))
    return path


@pytest.fixture
def loop(raw: Path) -> Iterator[Path]:
    """A block device."""
    made = subprocess.run(["losetup", "--find", "--show", raw], check=True, capture_output=True, text=True)
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)
