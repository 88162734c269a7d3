"""One boot for all tests of this directory."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from tests.vm.clouds import INSTANCE, Cloud, Ec2, Gce
from tests.vm.code import make_code, make_image, run
from tests.vm.service import API_PORT, NBD_PORTS, Service
from tests.vm.virtual_machine import VirtualMachine

RANDOM_BYTES = 16 * 1024**2


@dataclass(frozen=True)
class Evidence:
    """The content of a disk: a file system that can be mounted, with the file `random`."""

    image: Path
    digest: str
    """SHA-256 of that file."""


@pytest.fixture(scope="session")
def image() -> Path:
    return make_image()


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_code(tmp_path_factory.mktemp("code"))


@pytest.fixture(scope="session")
def vm(image: Path, code: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualMachine]:
    directory = tmp_path_factory.mktemp("vm")
    with VirtualMachine(directory, image, code, [API_PORT, *NBD_PORTS]) as machine:
        yield machine


@pytest.fixture(scope="session")
def clouds(vm: VirtualMachine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Cloud]]:
    """Both at once: the machine is an instance of each."""
    directory = tmp_path_factory.mktemp("clouds")
    both = (Gce(directory / "gce", vm.machine), Ec2(directory / "ec2", vm.machine))
    with both[0].emulator, both[1].emulator:
        for cloud in both:
            cloud.emulator.make_instance(INSTANCE)
        yield {cloud.provider: cloud for cloud in both}


@pytest.fixture(scope="session")
def service(vm: VirtualMachine, clouds: dict[str, Cloud]) -> Iterator[Service]:
    service = Service(vm, clouds.values())
    yield service
    service.close()


@pytest.fixture(params=["gce", "ebs"])
def cloud(request: pytest.FixtureRequest, clouds: dict[str, Cloud]) -> Cloud:
    return clouds[request.param]


@pytest.fixture(scope="session")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    directory = tmp_path_factory.mktemp("evidence")
    content = secrets.token_bytes(RANDOM_BYTES)
    (directory / "files").mkdir()
    (directory / "files/random").write_bytes(content)
    run("mke2fs", "-t", "ext4", "-d", directory / "files", directory / "evidence.img", "1G")
    return Evidence(directory / "evidence.img", sha256(content).hexdigest())
