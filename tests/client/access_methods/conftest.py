"""Exports as cloudmanager serves them, and proof after each test that nothing is left of what a way set up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudmanager.client.access_methods import record
from cloudmanager.linux.mounts import mount_points_below
from tests.authority import Authority
from tests.client.access_methods import disks
from tests.client.access_methods.serving import Serving
from tests.core.nbd.exporter import Exporter

MakeServing = Callable[..., Serving]


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the records are: nobody else's."""
    directory = tmp_path / "run"
    monkeypatch.setenv(record.RUN_DIRECTORY, str(directory))
    return directory


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, run_directory: Path) -> Iterator[None]:
    yield
    assert mount_points_below(tmp_path) == []
    assert not run_directory.exists() or list(run_directory.iterdir()) == []


@pytest.fixture
def make_serving(tmp_path: Path, nothing_is_left: None) -> Iterator[MakeServing]:
    exporters: list[Exporter] = []

    def make(**settings: Any) -> Serving:
        exporters.append(Exporter(tmp_path / f"exports-{len(exporters)}", **settings))
        return Serving(exporters[-1])

    yield make
    for exporter in exporters:
        exporter.stop_all()


@pytest.fixture
def serving(make_serving: MakeServing) -> Serving:
    return make_serving()


@pytest.fixture
def tls_serving(make_serving: MakeServing) -> Serving:
    return make_serving(tls="psk")


@pytest.fixture
def x509_serving(make_serving: MakeServing, tmp_path: Path) -> Serving:
    authority = Authority()
    serving = make_serving(tls="x509", tls_certificates=authority.server(tmp_path / "server"))
    serving.certificates = authority.client(tmp_path / "client")
    return serving


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """4 MiB of random bytes."""
    return disks.random_bytes(tmp_path / "disk.raw", 4 * disks.MiB)


@pytest.fixture(scope="session")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Partitions whose file systems were copied while they were mounted and written to."""
    return disks.make_evidence(tmp_path_factory.mktemp("evidence"))


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """A disk whose second partition is LVM's."""
    return disks.make_group(tmp_path)
