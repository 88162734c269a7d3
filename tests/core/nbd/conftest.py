"""Export managers on real qemu-nbd, in directories of their own; whatever they started is stopped at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.core.nbd.exporter import Exporter, MiB
from tests.loop_devices import loop_device


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


@pytest.fixture(scope="session")
def _random_bytes() -> bytes:
    return os.urandom(4 * MiB)


@pytest.fixture
def raw(tmp_path: Path, _random_bytes: bytes) -> Path:
    """4 MiB of random bytes."""
    path = tmp_path / "disk.raw"
    path.write_bytes(_random_bytes)
    return path


@pytest.fixture
def loop(raw: Path) -> Iterator[Path]:
    """A block device."""
    with loop_device(raw) as device:
        yield device
