"""The page's own commands: virt-builder makes a machine's disk, across NBD, from a template that is made here."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from cloudmanager.testing.cloud import loop_device
from tests.api.service import running, settings_for
from tests.virt_builder.template import SYSTEM, command_with, environment_for_virt_builder, make_system

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DISK_BYTES = 256 * 2**20


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Where the directory `root` is that the template is made of."""
    make_system(tmp_path / "root")
    return tmp_path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The machine's, with something old on it."""
    content = tmp_path / "disk"
    with content.open("wb") as file:
        file.write(b"old" * 2**20)
        file.truncate(DISK_BYTES)
    device = loop_device.attach(content)
    yield device
    assert loop_device.detach(device, content)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of a client of the service that runs on the machine. virt-builder finds no template but ours."""
    token = secrets.token_urlsafe()
    settings = settings_for(
        tmp_path,
        server={"token_sha256": [sha256(token.encode()).hexdigest()]},
        nbd={"tls": "psk"},
        providers={"local": {"type": "local", "devices": True}},
    )
    with running(settings, token=token) as service:
        yield {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CLOUDMANAGER_URL": service.url,
            "CLOUDMANAGER_TOKEN": token,
            **environment_for_virt_builder(tmp_path),
        }


def test_virt_builder_makes_a_machines_disk_over_nbd_as_the_page_says(
    system: Path, disk: Path, environment: dict[str, str]
) -> None:
    shell(command_with("our-debian]"), system, environment)
    shell(command_with("virt-builder our-debian").replace("/dev/sda", str(disk)), system, environment)
    subprocess.run(["e2fsck", "-fn", disk], check=True, capture_output=True)
    assert read(disk, "/etc/hostname") == "web01\n"
    assert read(disk, "/etc/debian_version") == SYSTEM["etc/debian_version"]


def shell(script: str, directory: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["sh", "-e"], input=script, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{script}{done.stdout}{done.stderr}"


def read(device: Path, name: str) -> str:
    """A file of the file system on a device."""
    return subprocess.run(["debugfs", "-R", f"cat {name}", device], check=True, capture_output=True, text=True).stdout
