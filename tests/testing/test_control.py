"""The control API of an emulated cloud: what a test in another language, or a person with curl, has."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cloudmanager.testing.cloud import ec2
from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.gce import Emulation
from cloudmanager.testing.cloud.gce.emulation import PROJECT

FLAVOR = {"Metadata-Flavor": "Google"}
ZONE = f"/compute/v1/projects/{PROJECT}/zones/us-central1-b"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Emulation]:
    with Emulation(tmp_path) as cloud:
        yield cloud


@pytest.fixture
def control(cloud: Emulation) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{cloud.url}/_control/") as client:
        yield client


@pytest.fixture
def api(cloud: Emulation) -> Iterator[httpx.Client]:
    token = {"Authorization": f"Bearer {cloud.tokens.token}"}
    with httpx.Client(base_url=cloud.url, headers=token) as client:
        yield client


def test_disks_and_machines_are_made_and_attached_by_hand(cloud: Emulation, control: httpx.Client) -> None:
    machine = control.post("instances", json={"name": "worker-1"}).json()
    disk = control.post("disks", json={"name": "evidence-7", "labels": {"case": "7"}}).json()["id"]
    control.post("attachments", json={"disk": disk, "instance": "worker-1", "slot": "by-hand"})
    assert cloud.holders(disk) == ["worker-1"]
    assert (Path(machine["dev"]) / "disk/by-id/google-by-hand").resolve().is_block_device()
    control.request("DELETE", "attachments", json={"disk": disk, "instance": "worker-1"})
    assert cloud.holders(disk) == []


def test_a_disk_that_is_made_anew_has_its_name_and_another_number(control: httpx.Client, api: httpx.Client) -> None:
    disk = control.post("disks", json={"name": "evidence-7"}).json()["id"]
    before = api.get(f"{ZONE}/disks/evidence-7").json()
    assert control.post("disks/recreate", json={"disk": disk}).json() == {"id": disk}
    after = api.get(f"{ZONE}/disks/evidence-7").json()
    assert (after["selfLink"], after["sizeGb"]) == (before["selfLink"], before["sizeGb"])
    assert after["id"] != before["id"]
    assert after["creationTimestamp"] != before["creationTimestamp"]
    assert control.request("DELETE", "disks", json={"disk": disk}).status_code == 200
    assert api.get(f"{ZONE}/disks/evidence-7").status_code == 404


def test_an_attached_disk_is_neither_deleted_nor_made_anew(cloud: Emulation, control: httpx.Client) -> None:
    control.post("instances", json={"name": "worker-1"})
    disk = control.post("disks", json={"name": "evidence-7"}).json()["id"]
    control.post("attachments", json={"disk": disk, "instance": "worker-1"})
    assert control.request("DELETE", "disks", json={"disk": disk}).status_code == 400
    assert "worker-1" in control.post("disks/recreate", json={"disk": disk}).json()["detail"]
    assert cloud.holders(disk) == ["worker-1"]


def test_a_machine_is_stopped_started_renamed_and_deleted(cloud: Emulation, control: httpx.Client) -> None:
    control.post("instances", json={"name": "worker-1"})
    disk = control.post("disks", json={"name": "evidence-7"}).json()["id"]
    control.post("attachments", json={"disk": disk, "instance": "worker-1", "slot": "by-hand"})
    assert control.post("instances/rename", json={"instance": "worker-1", "name": "worker-9"}).status_code == 400
    assert control.post("instances/stop", json={"instance": "worker-1"}).status_code == 200
    assert (cloud._instance("worker-1").status, cloud.holders(disk)) == ("TERMINATED", ["worker-1"])
    assert "by-hand" not in cloud.guests["worker-1"].plugged
    control.post("instances/rename", json={"instance": "worker-1", "name": "worker-9"})
    control.post("instances/start", json={"instance": "worker-9"})
    assert (cloud._instance("worker-9").status, cloud.holders(disk)) == ("RUNNING", ["worker-9"])
    assert "by-hand" in cloud.guests["worker-9"].plugged
    assert (
        httpx.get(f"http://{cloud.metadata_host('worker-9')}/computeMetadata/v1/instance/name", headers=FLAVOR).text
        == "worker-9"
    )
    assert control.request("DELETE", "instances", json={"instance": "worker-9"}).status_code == 200
    assert cloud.holders(disk) == []


@pytest.mark.parametrize("kind", [ec2.Emulation, AzureEmulation], ids=["ec2", "azure"])
def test_every_cloud_does_what_it_can_and_says_what_it_cannot(
    tmp_path: Path, kind: type[ec2.Emulation | AzureEmulation]
) -> None:
    with kind(tmp_path) as cloud:
        trust = ssl.create_default_context(cafile=getattr(cloud, "ca_file", None))
        with httpx.Client(base_url=f"{cloud.url}/_control/", verify=trust) as control:
            control.post("instances", json={"name": "worker-1"})
            disk = control.post("disks", json={"name": "evidence-7"}).json()["id"]
            control.post("attachments", json={"disk": disk, "instance": "worker-1"})
            plugged = len(cloud.guests["worker-1"].plugged)
            assert control.post("instances/stop", json={"instance": "worker-1"}).status_code == 200
            assert len(cloud.guests["worker-1"].plugged) < plugged
            control.post("instances/start", json={"instance": "worker-1"})
            assert len(cloud.guests["worker-1"].plugged) == plugged
            control.request("DELETE", "attachments", json={"disk": disk, "instance": "worker-1"})
            is_ec2 = cloud.kind == "ec2"
            assert control.post("disks/rename", json={"disk": disk, "name": "e"}).status_code == (
                200 if is_ec2 else 400
            )
            assert control.post("disks/recreate", json={"disk": disk}).status_code == (400 if is_ec2 else 200)


def test_faults_are_set_shown_and_cleared(control: httpx.Client, api: httpx.Client) -> None:
    control.post("faults", json={"operation": "disks.list", "effect": "throttle", "form": "429", "retry_after": 7})
    assert [fault["operation"] for fault in control.get("faults").json()["items"]] == ["disks.list"]
    refused = api.get(f"{ZONE}/disks")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7")
    control.delete("faults")
    assert api.get(f"{ZONE}/disks").status_code == 200


def test_the_call_log_is_shown_and_forgotten(control: httpx.Client, api: httpx.Client) -> None:
    api.get(f"{ZONE}/disks")
    assert control.get("calls").json()["items"] == [
        {"operation": "disks.list", "target": "", "mutates": False, "status": 200}
    ]
    control.delete("calls")
    assert control.get("calls").json()["items"] == []


def test_time_is_stopped_and_moved(tmp_path: Path) -> None:
    with Emulation(tmp_path / "slow", pace=1.0) as cloud:
        cloud.make_instance("worker-1")
        disk = cloud.make_disk("evidence-7")
        control = httpx.Client(base_url=f"{cloud.url}/_control/")
        api = httpx.Client(base_url=cloud.url, headers={"Authorization": f"Bearer {cloud.tokens.token}"})
        with control, api:
            control.post("clock", json={"freeze": True})
            api.post(f"{ZONE}/instances/worker-1/attachDisk", json={"source": disk, "deviceName": "e"})
            assert "e" not in cloud.guests["worker-1"].plugged
            control.post("clock", json={"advance_seconds": 60})
            assert "e" in cloud.guests["worker-1"].plugged


@pytest.mark.parametrize(
    ("route", "document"),
    [
        ("faults", {"operation": "x", "effect": "no-such-effect"}),
        ("faults", {"operation": "x", "effect": "hang", "unknown": 1}),
        ("disks", {"name": "x", "size_bytes": -1}),
        ("attachments", {"disk": "no-disk", "instance": "no-machine"}),
    ],
)
def test_mistakes_are_answered_not_swallowed(control: httpx.Client, route: str, document: dict[str, object]) -> None:
    assert control.post(route, json=document).status_code == 400


def test_an_unknown_route_is_said_to_be_unknown(control: httpx.Client) -> None:
    assert control.get("nothing").status_code == 404
