"""The control API of an emulated cloud: what a test in another language, or a person with curl, has."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cloudmanager.testing.cloud.gce import Emulation
from cloudmanager.testing.cloud.gce.emulation import PROJECT

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
