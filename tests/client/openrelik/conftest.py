"""A service with a disk in an emulated cloud and one of its own, and the files that stand for them in a task."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudmanager.testing.cloud import backing
from cloudmanager.testing.cloud.gce import Emulation
from tests.client.daemon import Daemon

GIB = 1024**3
KEPT = "it was the gardener\n"
Describe = Callable[..., dict[str, object]]


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulation]:
    with Emulation(tmp_path_factory.mktemp("cloud"), pace=0) as emulation:
        emulation.make_instance("worker-1")
        yield emulation


@pytest.fixture(scope="session")
def evidence(cloud: Emulation, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The cloud's id of the disk that is named evidence-7."""
    disk = cloud.make_disk("evidence-7")
    backing.copy(system_image(tmp_path_factory.mktemp("image")), cloud.backing(disk), GIB)
    return disk


def system_image(directory: Path) -> Path:
    """One partition with an ext4 file system: `report.txt`, and `secret.txt`, which was deleted."""
    image, content = directory / "disk", directory / "content"
    content.mkdir()
    (content / "report.txt").write_text(KEPT)
    filesystem = directory / "ext4"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", content, filesystem, "16M"], check=True)
    for command in ("write /etc/hostname secret.txt", "rm secret.txt"):
        subprocess.run(["debugfs", "-w", "-R", command, filesystem], check=True, capture_output=True)
    with image.open("wb") as file:
        file.truncate(20 << 20)
    subprocess.run(["sfdisk", "-q", image], input="label: dos\nstart=2048, size=32768\n", text=True, check=True)
    with image.open("r+b") as file:
        file.seek(2048 * 512)
        file.write(filesystem.read_bytes())
    return image


@pytest.fixture(scope="session")
def daemon(cloud: Emulation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """On worker-1 of the cloud, which is its provider `prod`; its own `plain.raw` is at `local`."""
    directory = tmp_path_factory.mktemp("service")
    running = Daemon(directory, providers={"prod": cloud.provider_settings("worker-1")})
    running.environment = {**cloud.environment("worker-1"), "NO_PROXY": "127.0.0.1"}
    running.image("plain.raw")
    try:
        running.started()
        yield running
    finally:
        running.end()


@pytest.fixture
def describe(tmp_path: Path) -> Describe:
    """An input file of a task that stands for a disk, as OpenRelik's server writes one."""

    def make(data_type: str, content: object) -> dict[str, object]:
        name = uuid.uuid4().hex
        path = tmp_path / f"{name}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return {
            "id": 7,
            "uuid": name,
            "display_name": "evidence.json",
            "extension": ".json",
            "data_type": data_type,
            "mime_type": "application/json",
            "path": str(path),
        }

    return make


@pytest.fixture
def gcp_disk(evidence: str, describe: Describe) -> dict[str, object]:
    return describe("cloud:gcp:disk", {"provider": "gcp", "disk_name": "evidence-7"})


@pytest.fixture
def own_disk(describe: Describe) -> dict[str, object]:
    return describe("cloud:cloudmanager:disk", {"disk": "local:plain.raw"})
