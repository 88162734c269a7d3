"""The choice of the way on links of a given rate, between hosts of their own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from benchmarks.rig.network import Network, network
from tests.api import service as api
from tests.client.deploy import images

MIB = images.MIB
SIZE = 96 * MIB
MEGABITS = 100
"""NBD takes 8 s for what is compressible here, however slow the machine is that compresses it."""


@pytest.fixture(scope="module")
def cables() -> Iterator[Network]:
    with network(1) as cables:
        cables.limit(MEGABITS)
        yield cables


@pytest.fixture(scope="module")
def token() -> str:
    return secrets.token_urlsafe()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("link")


@pytest.fixture(scope="module")
def service(cables: Network, token: str, directory: Path) -> Iterator[api.Service]:
    settings = api.settings_for(
        directory,
        server={"listen": f"{cables.address}:0", "token_sha256": [sha256(token.encode()).hexdigest()]},
        nbd={"listen": cables.address, "insecure": True},
    )
    with api.running(settings, token=token) as service:
        yield service


@pytest.mark.parametrize(
    ("kind", "way", "why"), [("text", "compressed", "goes compressed"), ("random", "nbd", "compression gains nothing")]
)
def test_on_a_slow_link_what_can_be_compressed_is(
    kind: str, way: str, why: str, service: api.Service, token: str, cables: Network, directory: Path, tmp_path: Path
) -> None:
    image, disk = tmp_path / "image.raw", directory / "images" / f"{kind}.raw"
    size = SIZE if kind == "text" else SIZE // 4
    line = b"all work and no play makes a line of text that is not quite like the others, %d\n"
    text = b"".join(line % number for number in range(size // 60))
    image.write_bytes(text[:size].ljust(size, b".") if kind == "text" else os.urandom(size))
    with disk.open("wb") as file:
        file.truncate(size)
    command = [sys.executable, "-m", "cloudmanager", "deploy", str(image), f"local:{disk.name}", "--json", "--verify"]
    environment = {"CLOUDMANAGER_URL": service.url, "CLOUDMANAGER_TOKEN": token, "XDG_STATE_HOME": str(tmp_path)}
    ran = subprocess.run(
        ["ip", "netns", "exec", cables.hosts[0], *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    events = [json.loads(event) for event in ran.stdout.splitlines()]
    assert events[-1]["route"] == way, [event.get("remark") for event in events]
    assert any(why in event.get("remark", "") for event in events)
    assert images.same(image, disk)
