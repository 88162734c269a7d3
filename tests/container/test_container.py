"""The image, built for real and run with the options of compose.yaml."""

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cloudmanager.cli.demo.leftovers import processes
from tests.container.compose import options, service
from tests.container.conftest import Podman
from tests.loop_devices import attached, detach
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONFIGURATION = """\
[server]
listen = "127.0.0.1:{port}"
[providers.local]
type = "local"
images = ["/srv/images"]
devices = true
"""
# podman would raise this limit, which a machine may forbid.
PROCESSES = ("--ulimit", "nproc=2000:2000")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def places(tmp_path: Path, port: int) -> dict[str, Path]:
    """What compose.yaml mounts from the host, for this test."""
    configuration = tmp_path / "cloudmanager.toml"
    configuration.write_text(CONFIGURATION.format(port=port))
    for name in ("images", "state"):
        (tmp_path / name).mkdir()
    return {
        "./cloudmanager.toml": configuration,
        "/srv/images": tmp_path / "images",
        "state": tmp_path / "state",
    }


def test_the_demo_works_in_the_container(podman: Podman, image: str, places: dict[str, Path]) -> None:
    answer = podman("run", "--rm", *PROCESSES, *options(places), image, "demo")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "✓ SHA-256 is the same" in answer.stdout
    assert "✓ nothing is left" in answer.stdout


def test_doctor_finds_nothing_to_mend_in_the_container(podman: Podman, image: str, places: dict[str, Path]) -> None:
    answer = podman("run", "--rm", *PROCESSES, *options(places), image, "doctor", "--json")
    found = {finding["subject"]: finding for finding in json.loads(answer.stdout)["findings"]}
    assert answer.returncode == 0, answer.stdout
    assert {found[subject]["severity"] for subject in ("bubblewrap", "user", "pidfd_getfd", "open files")} == {"ok"}


@pytest.mark.parametrize("capability", service()["cap_add"])
def test_doctor_misses_each_capability_that_is_taken_away(
    podman: Podman, image: str, places: dict[str, Path], capability: str
) -> None:
    arguments = options(places)
    at = arguments.index(capability)
    answer = podman("run", "--rm", *PROCESSES, *arguments[: at - 1], *arguments[at + 1 :], image, "doctor", "--json")
    found = {finding["subject"]: finding for finding in json.loads(answer.stdout)["findings"]}
    assert f"without CAP_{capability} " in found["user"]["seen"]


@pytest.fixture
def running(podman: Podman, image: str, places: dict[str, Path], port: int) -> Iterator[httpx.Client]:
    """A client of the service in its container."""
    started = podman("run", "--detach", "--name", "cm", *PROCESSES, *options(places), image)
    assert started.returncode == 0, started.stderr
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        deadline = time.monotonic() + 30
        while not _is_ready(client):
            assert time.monotonic() < deadline, podman("logs", "cm").stderr
            time.sleep(0.1)
        yield client
    podman("rm", "--force", "cm")


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").is_success
    except httpx.TransportError:
        return False


def _export(client: httpx.Client, disk: str, access: str = "read-only") -> str:
    wanted = {"disk": disk, "access": access, "holder": "test"}
    answer = client.post("/v1/exports", json=wanted, headers={"Prefer": "wait=20"}).json()
    assert answer.get("state") == "ready", answer
    return str(answer["uri"])


def _sha256_over_nbd(uri: str) -> str:
    return hashlib.sha256(subprocess.run(["nbdcopy", uri, "-"], capture_output=True, check=True).stdout).hexdigest()


def test_it_serves_an_image_of_the_host(running: httpx.Client, places: dict[str, Path]) -> None:
    content = os.urandom(3 * 1024**2)
    (places["/srv/images"] / "disk.raw").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert _sha256_over_nbd(_export(running, "local:disk.raw")) == expected
    assert _sha256_over_nbd(_export(running, "local:disk.raw", "scratch")) == expected


def test_it_serves_a_block_device_that_came_after_it_was_started(running: httpx.Client, tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(os.urandom(3 * 1024**2))
    device = attached(backing)
    try:
        disks = running.get("/v1/disks", params={"q": device.name}).json()["items"]
        uri = _export(running, disks[0]["id"])
        assert _sha256_over_nbd(uri) == hashlib.sha256(backing.read_bytes()).hexdigest()
    finally:
        detach(device)


def test_its_health_is_checked_in_the_container(podman: Podman, running: httpx.Client, port: int) -> None:
    _, *command = service()["healthcheck"]["test"]
    ours = [word.replace(":8600/", f":{port}/") for word in command]
    assert podman("exec", "cm", *ours).returncode == 0
    assert podman("exec", "cm", *[word.replace("/healthz", "/no") for word in ours]).returncode != 0


def test_exports_come_back_on_their_addresses_when_it_is_started_again(
    podman: Podman, running: httpx.Client, places: dict[str, Path]
) -> None:
    (places["/srv/images"] / "disk.raw").write_bytes(bytes(1024**2))
    uri = _export(running, "local:disk.raw")
    assert podman("restart", "cm").returncode == 0
    deadline = time.monotonic() + 30
    while not _is_served(uri):
        assert time.monotonic() < deadline, podman("logs", "cm").stderr
        time.sleep(0.1)


def _is_served(uri: str) -> bool:
    return subprocess.run(["nbdinfo", "--size", uri], capture_output=True, check=False).returncode == 0


def test_it_ends_in_good_order_and_leaves_no_process(
    podman: Podman, running: httpx.Client, places: dict[str, Path]
) -> None:
    (places["/srv/images"] / "disk.raw").write_bytes(bytes(1024**2))
    name = _export(running, "local:disk.raw").rpartition("/")[2]
    assert podman("stop", "cm").returncode == 0
    assert podman("wait", "cm").stdout.strip() == "0"
    assert processes(name) == {}
