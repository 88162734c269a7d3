from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.deploy import Progress, Result, deploy
from tests.client.deploy import images
from tests.client.deploy.servers import Server, serving

Put = Callable[..., Result]
"""As `deploy`."""


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.sparse_image(tmp_path_factory.mktemp("deploy") / "image.raw")


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "journals"


@pytest.fixture
def put(journals: Path) -> Put:
    """`deploy`, with its journals where the test finds them."""

    def run(source: Path | str, target: NbdAddress | Path | str, **keywords: Any) -> Result:
        return deploy(source, target, **{"journal_directory": journals, **keywords})

    return run


@pytest.fixture
def reported() -> list[Progress]:
    return []


@pytest.fixture
def blank(tmp_path: Path) -> Iterator[Server]:
    """An empty target, larger than the image."""
    disk = tmp_path / "target.raw"
    with disk.open("wb") as file:
        file.truncate(images.SIZE + 32 * images.MIB)
    with serving(disk) as server:
        yield server


@pytest.fixture
def dirty(tmp_path: Path) -> Iterator[Server]:
    """A target full of something else."""
    disk = tmp_path / "target.raw"
    with disk.open("wb") as file:
        for _ in range(0, images.SIZE + 32 * images.MIB, images.MIB):
            file.write(b"\xa5" * images.MIB)
    with serving(disk) as server:
        yield server
