"""The whole way: HTTP, the service, the SDK, an emulated Compute Engine, a real block device, qemu-nbd."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.linux import block
from cloudmanager.providers import gce
from cloudmanager.testing.conformance.emulated import NEIGHBOUR, NODE
from tests.api.service import Service, running, settings_for
from tests.providers.gce.harness import ATTACH, PREFIX, GceHarness
from tests.waiting import eventually

ME = f"{PREFIX}zones/us-central1-b/instances/{NODE}"


@pytest.fixture
def service(harness: GceHarness, tmp_path: Path) -> Iterator[Service]:
    providers = {"prod": {**harness.table(), "type": "gce"}}
    with running(settings_for(tmp_path, providers=providers), ("gce", gce)) as service:
        yield service


def is_read_only(node: Path) -> bool:
    descriptor = os.open(node, os.O_RDONLY)
    try:
        return block.is_read_only(descriptor)
    finally:
        os.close(descriptor)


def modes(harness: GceHarness) -> list[str]:
    return [attached.mode.value for attached in harness.cloud.state.instances[ME].disks if not attached.boot]


def test_a_disk_that_google_attaches_read_write_only_is_read_only_here(harness: GceHarness, service: Service) -> None:
    native = harness.native_id(harness.cloud.make_disk("hyper", disk_type="hyperdisk-balanced-high-availability"))
    export = service.export(f"prod:{native}")
    assert export["state"] == "ready", export["error"]
    assert modes(harness) == ["READ_WRITE"]
    (attachment,) = service.client.get("/v1/attachments").json()["items"]
    assert (attachment["access"], attachment["is_ours"]) == ("read-write", True)
    (plugged,) = (each for name, each in harness.cloud.guests[NODE].plugged.items() if name.startswith("cm-"))
    assert is_read_only(plugged.node)
    service.client.delete(f"/v1/exports/{export['id']}").raise_for_status()
    eventually(lambda: modes(harness) == [], "the disk was not detached")


def test_a_disk_that_was_attached_read_write_by_hand_is_exported_as_it_is(
    harness: GceHarness, service: Service
) -> None:
    path = harness.cloud.make_disk("theirs")
    harness.cloud.attach_by_hand(path, NODE, read_only=False, slot="theirs")
    export = service.export(f"prod:{harness.native_id(path)}")
    assert export["state"] == "ready", export["error"]
    assert not is_read_only(harness.cloud.guests[NODE].plugged["theirs"].node)
    assert ATTACH not in [call.operation for call in harness.calls]
    service.client.delete(f"/v1/exports/{export['id']}").raise_for_status()
    eventually(lambda: service.client.get("/v1/attachments").json()["items"] == [], "the attachment was kept")
    assert modes(harness) == ["READ_WRITE"]


def test_disks_say_what_each_of_them_is(harness: GceHarness, service: Service) -> None:
    ours, foreign = harness.make_disk("ours"), harness.native_id(harness.cloud.make_disk("theirs"))
    harness.cloud.attach_by_hand(harness.emulated_id(foreign), NODE)
    harness.make_disk("free")
    service.export(f"prod:{ours}", holder="anna")
    disks = service.client.get("/v1/disks", params={"provider": "prod"}).json()["items"]
    seen = {disk["id"].rpartition("/")[2]: (disk["attached"], disk["exported_to"], disk["held_by"]) for disk in disks}
    assert seen == {
        NODE: ("boot", [], []),
        NEIGHBOUR: (None, [], [f"us-central1-b/{NEIGHBOUR}"]),
        "ours": ("ours", ["anna"], []),
        "theirs": ("foreign", [], []),
        "free": (None, [], []),
    }
    assert service.client.get(f"/v1/disks/prod/{ours}").json()["attached"] == "ours"


def test_the_boot_disk_is_not_exported_read_write(harness: GceHarness, service: Service) -> None:
    answer = service.client.post(
        "/v1/exports",
        json={"disk": f"prod:us-central1-b/{NODE}", "access": "read-write", "holder": "anna", "ttl_seconds": 600},
    )
    assert (answer.status_code, "This machine runs from it" in answer.json()["detail"]) == (422, True)
    assert service.export(f"prod:us-central1-b/{NODE}")["state"] == "ready"
