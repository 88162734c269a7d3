"""The machine that is deployed: the page's configuration, `cloudmanager serve`, and its commands from elsewhere."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from tests.checkout import ROOT
from tests.client.deploy import images
from tests.loop_devices import loop_device
from tests.ports import free_port

PAGE = (ROOT / "docs/deploying-machines.md").read_text()
START_SECONDS = 40
NO_DISK = ("ram", "zram", "fd", "sr")


@dataclass(frozen=True)
class Machine:
    """A running service, and who may use it."""

    environment: dict[str, str]
    http: httpx.Client

    def command(self, *arguments: str | Path) -> str:
        """What a command of the page prints."""
        command = [sys.executable, "-m", "cloudmanager", *map(str, arguments)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """Empty, larger than the image."""
    content = tmp_path / "disk"
    with content.open("wb") as file:
        file.truncate(images.SIZE + 32 * images.MIB)
    with loop_device(content) as device:
        yield str(device)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    port = free_port()
    token = secrets.token_urlsafe()
    (shown,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    configuration = tmp_path / "cloudmanager.toml"
    configuration.write_text(
        shown.replace("0.0.0.0:8600", f"127.0.0.1:{port}")
        .replace("0.0.0.0", "127.0.0.1")
        .replace("/run/cloudmanager", str(tmp_path / "state"))
        .replace("…", sha256(token.encode()).hexdigest())
    )
    url = f"http://127.0.0.1:{port}"
    asking = {"CLOUDMANAGER_URL": url, "CLOUDMANAGER_TOKEN": token, "XDG_STATE_HOME": str(tmp_path)}
    environment = {**os.environ, **asking}
    serve = [sys.executable, "-m", "cloudmanager", "serve", "--config", str(configuration)]
    headers = {"Authorization": f"Bearer {token}"}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(serve, stdout=log, stderr=log) as service,
        httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as http,
    ):
        try:
            await_ready(http, service, tmp_path / "log")
            yield Machine(environment, http)
        finally:
            service.terminate()


def await_ready(http: httpx.Client, service: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_ready(http):
        assert service.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").is_success
    except httpx.TransportError:
        return False


def disks_of_this_machine() -> set[tuple[str, str]]:
    """As the kernel names and counts them: whole disks that have a size."""
    found = [entry for entry in Path("/sys/block").iterdir() if not entry.name.startswith(NO_DISK)]
    return {(entry.name, (entry / "diskseq").read_text()) for entry in found if int((entry / "size").read_text())}


def listed(machine: Machine) -> set[str]:
    shown = json.loads(machine.command("disks", "--json"))["items"]
    names = {each["id"].removeprefix("local:").partition("@")[0] for each in shown}
    return {Path(name).resolve().name for name in names}


@pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
def test_every_disk_of_the_machine_is_listed(machine: Machine, disk: str) -> None:
    before = disks_of_this_machine()
    shown = listed(machine)
    assert Path(disk).name in shown
    # Other tests' loop devices come and go meanwhile, and one name goes from one to the next.
    assert {name for name, _ in before & disks_of_this_machine()} <= shown


@pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
def test_an_image_is_deployed_onto_the_machine_as_the_page_says(machine: Machine, disk: str, tmp_path: Path) -> None:
    raw = images.sparse_image(tmp_path / "image.raw")
    image = images.converted(raw, "qcow2", "debian-12.qcow2")
    (line,) = re.findall(r"^cloudmanager (deploy .*)$", PAGE, re.MULTILINE)
    arguments = line.replace("debian-12.qcow2", str(image)).replace("/dev/sda", disk).split()
    machine.command(*arguments)
    assert images.same(raw, Path(disk), images.SIZE)
    # Given back when it ended, so that the machine can reboot.
    states = [each["state"] for each in machine.http.get("/v1/exports").json()["items"]]
    assert states == ["closed"]


@pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
def test_a_disk_is_lent_for_writing_with_a_key_and_not_without(machine: Machine, disk: str, tmp_path: Path) -> None:
    exported = json.loads(machine.command("export", f"local:{disk}", "--access", "read-write", "--json"))
    uri, credentials = exported["uri"], exported["credentials"]
    assert uri.startswith("nbds://")
    assert subprocess.run(["nbdinfo", "--size", uri], check=False, capture_output=True).returncode
    key = tmp_path / "keys.psk"
    key.write_text(f"{credentials['username']}:{credentials['key']}\n")
    with_key = f"{uri.replace('://', '://' + credentials['username'] + '@')}?tls-psk-file={key}"
    sizes = subprocess.run(["nbdinfo", "--size", with_key], check=True, capture_output=True, text=True).stdout
    assert int(sizes) == images.SIZE + 32 * images.MIB
    machine.command("release", exported["id"])
