"""The whole way: HTTP, the service, boto3, an emulated EC2, a real block device, qemu-nbd, a real NBD client."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.providers import aws
from cloudmanager.testing.cloud.ec2 import Emulation
from tests.api.service import Service, running, settings_for
from tests.providers.aws.clients import QUICK, changes
from tests.waiting import eventually

HOLDERS = ("anna", "ben", "clara")
WAITS = {**QUICK, "attach_timeout_seconds": 10, "detach_timeout_seconds": 10, "device_timeout_seconds": 10}


@pytest.fixture
def service(cloud: Emulation, node: str, credentials: None, tmp_path: Path) -> Iterator[Service]:
    provider = {**cloud.provider_settings("worker-1"), **WAITS}
    with running(settings_for(tmp_path, providers={"prod": provider}), ("aws", aws)) as service:
        yield service


def with_a_file_system(volume: Path, content: Path) -> None:
    content.mkdir()
    (content / "report.txt").write_text("it was the gardener\n")
    command = ["mkfs.ext4", "-q", "-F", "-d", str(content), "-E", "lazy_itable_init=1", str(volume)]
    subprocess.run(command, check=True, capture_output=True)


def assert_same_bytes(uri: str, volume: Path) -> None:
    """A GiB is compared in a fifth of the time that its digest takes."""
    copying = f"nbdcopy '{uri}' - | cmp - '{volume}'"
    subprocess.run(["bash", "-o", "pipefail", "-c", copying], check=True, capture_output=True)


def test_a_volume_is_found_exported_read_shared_and_detached(
    cloud: Emulation, service: Service, tmp_path: Path
) -> None:
    volume = cloud.make_disk("evidence-7")
    with_a_file_system(cloud.backing(volume), tmp_path / "content")
    (found,) = service.client.get("/v1/disks", params={"provider": "prod", "q": "EVIDENCE"}).json()["items"]
    exports = [service.export(found["id"], holder=holder) for holder in HOLDERS]
    assert [export["state"] for export in exports] == ["ready"] * 3
    assert_same_bytes(str(exports[0]["uri"]), cloud.backing(volume))
    assert changes(cloud) == ["AttachVolume"]
    node = cloud.guests["worker-1"].plugged[volume].node
    for export in exports[:2]:
        service.client.delete(f"/v1/exports/{export['id']}").raise_for_status()
    eventually(lambda: len(service.client.get("/v1/exports?state=closed").json()["items"]) == 2, "two did not close")
    assert cloud.holders(volume) == ["worker-1"]
    service.client.delete(f"/v1/exports/{exports[2]['id']}").raise_for_status()
    eventually(lambda: cloud.holders(volume) == [], "the volume was not detached")
    assert changes(cloud) == ["AttachVolume", "DetachVolume"]
    assert not node.exists()
    assert cloud.guests["worker-1"].surprises == []


def test_a_volume_that_somebody_else_holds_is_a_conflict_that_names_the_holder(
    cloud: Emulation, service: Service
) -> None:
    cloud.make_instance("worker-2")
    volume = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(volume, "worker-2")
    export = service.export(f"prod:{volume}")
    assert export["state"] == "failed"
    assert cloud.instance("worker-2").id in str(export["error"])
    assert changes(cloud) == []
