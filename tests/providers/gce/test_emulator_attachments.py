"""The emulated Compute Engine attaches and detaches, and refuses, as the real one does."""

import threading
from pathlib import Path

import pytest
from google.api_core import exceptions

from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.gce import Emulation
from cloudmanager.testing.cloud.gce.emulation import PROJECT
from tests.providers.gce.clients import Clients, new_request_id

ZONES = f"projects/{PROJECT}/zones"


def reason(error: exceptions.GoogleAPICallError) -> str:
    return str(error.errors[0]["reason"])


def test_an_attach_runs_and_then_shows_in_both_descriptions(cloud: Emulation, clients: Clients) -> None:
    disk = cloud.make_disk("evidence-7")
    operation = clients.attach(disk, device_name="e", mode="READ_ONLY")
    assert operation.status.name == "RUNNING"
    assert operation.operation_type == "attachDisk"
    assert operation.target_link.endswith("/instances/worker-1")
    assert clients.wait(operation).status.name == "DONE"
    assert clients.device_names() == ["persistent-disk-0", "e"]
    assert clients.users(disk) == ["worker-1"]


def test_the_guest_gets_a_disk_with_the_device_name_as_its_link(cloud: Emulation, clients: Clients) -> None:
    clients.attach(cloud.make_disk("evidence-7"), device_name="e")
    guest = cloud.guests["worker-1"]
    assert (guest.dev / "disk/by-id/google-e").resolve() == guest.plugged["e"].node
    clients.detach("e")
    assert "e" not in guest.plugged


def test_a_newer_machine_type_has_nvme_disks(cloud: Emulation, clients: Clients) -> None:
    guest = cloud.make_instance("nvme", machine_type="c3-standard-4")
    clients.attach(cloud.make_disk("evidence-7"), "nvme", device_name="e")
    assert guest.plugged["e"].name == "nvme0n2"


def test_a_device_name_is_chosen_where_none_is_given(cloud: Emulation, clients: Clients) -> None:
    clients.attach(cloud.make_disk("evidence-7"))
    assert clients.device_names() == ["persistent-disk-0", "persistent-disk-1"]


def test_in_use_is_a_refusal_when_it_is_known_at_once(cloud: Emulation, clients: Clients) -> None:
    disk = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(disk, "worker-2")
    with pytest.raises(exceptions.BadRequest) as caught:
        clients.attach(disk)
    assert reason(caught.value) == "resourceInUseByAnotherResource"
    assert f"{ZONES}/us-central1-b/instances/worker-2" in caught.value.errors[0]["message"]


def test_in_use_is_a_failed_operation_when_another_was_faster(cloud: Emulation, clients: Clients) -> None:
    """The HTTP status of a failed operation is 200."""
    disk = cloud.make_disk("evidence-7")
    cloud.faults.add(Fault("instances.attachDisk", Effect.HANG))
    slow = clients.attach(disk, "worker-1")
    clients.attach(disk, "worker-2")
    cloud.timeline.release()
    ended = clients.wait(slow)
    assert ended.error.errors[0].code == "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"
    assert ended.http_error_status_code == 400
    assert clients.users(disk) == ["worker-2"]


def test_attaching_twice_to_one_machine_is_in_use_too(cloud: Emulation, clients: Clients) -> None:
    disk = cloud.make_disk("evidence-7")
    clients.attach(disk, device_name="e")
    with pytest.raises(exceptions.BadRequest, match="already being used"):
        clients.attach(disk, device_name="other")


def test_readers_share_a_disk_and_writers_do_not(cloud: Emulation, clients: Clients) -> None:
    disk = cloud.make_disk("evidence-7")
    for instance in ("worker-1", "worker-2"):
        clients.attach(disk, instance, mode="READ_ONLY")
    assert clients.users(disk) == ["worker-1", "worker-2"]
    cloud.make_instance("worker-3")
    with pytest.raises(exceptions.BadRequest, match="already being used"):
        clients.attach(disk, "worker-3", mode="READ_WRITE")


def test_a_disk_of_another_zone_is_refused(cloud: Emulation, clients: Clients) -> None:
    with pytest.raises(exceptions.BadRequest, match="must be in the same zone"):
        clients.attach(cloud.make_disk("far", location="us-central1-a"))


def test_a_regional_disk_fits_where_it_has_a_replica(cloud: Emulation, clients: Clients) -> None:
    disk = cloud.make_disk("regional", location="us-central1")
    clients.attach(disk, device_name="r")
    assert "r" in clients.device_names()
    with pytest.raises(exceptions.BadRequest, match="must be in the same zone"):
        clients.attach(cloud.make_disk("far", location="europe-west4"))


def test_force_attach_moves_a_regional_disk_and_refuses_a_zonal_one(cloud: Emulation, clients: Clients) -> None:
    regional = cloud.make_disk("regional", location="us-central1")
    cloud.attach_by_hand(regional, "worker-2")
    clients.attach(regional, force_attach=True)
    assert cloud.holders(regional) == ["worker-1"]
    with pytest.raises(exceptions.BadRequest, match="regional"):
        clients.attach(cloud.make_disk("zonal"), force_attach=True)


def test_a_machine_takes_no_more_disks_than_its_type_allows(cloud: Emulation, clients: Clients) -> None:
    cloud.make_instance("small", machine_type="e2-micro")
    for number in range(15):
        clients.attach(cloud.make_disk(f"d-{number}"), "small")
    ended = clients.wait(clients.attach(cloud.make_disk("one-too-many"), "small"))
    assert ended.error.errors[0].code == "QUOTA_EXCEEDED"
    assert ended.http_error_status_code == 403


def test_hyperdisk_balanced_is_not_attached_read_only(cloud: Emulation, clients: Clients) -> None:
    disk = cloud.make_disk("hyper", disk_type="hyperdisk-balanced")
    with pytest.raises(exceptions.BadRequest, match="cannot be attached in read-only mode"):
        clients.attach(disk, mode="READ_ONLY")


def test_a_request_id_is_carried_out_once(cloud: Emulation, clients: Clients) -> None:
    disk, request_id = cloud.make_disk("evidence-7"), new_request_id()
    first = clients.attach(disk, device_name="e", request_id=request_id)
    clients.wait(first)
    again = clients.attach(disk, device_name="e", request_id=request_id)
    assert (again.name, again.status.name) == (first.name, "DONE")
    with pytest.raises(exceptions.BadRequest):
        clients.attach(disk, device_name="other", request_id=request_id)


@pytest.mark.parametrize("request_id", ["7", "00000000-0000-0000-0000-000000000000"])
def test_a_request_id_is_a_uuid_that_is_not_zero(cloud: Emulation, clients: Clients, request_id: str) -> None:
    with pytest.raises(exceptions.BadRequest, match="UUID"):
        clients.attach(cloud.make_disk("evidence-7"), request_id=request_id)


def test_a_taken_device_name_is_refused(cloud: Emulation, clients: Clients) -> None:
    clients.attach(cloud.make_disk("one"), device_name="e")
    with pytest.raises(exceptions.BadRequest, match="device name 'e' is already"):
        clients.attach(cloud.make_disk("two"), device_name="e")


@pytest.mark.parametrize("source", ["", "evidence-7", "https://example.com/evidence-7"])
def test_a_source_is_a_link(clients: Clients, source: str) -> None:
    with pytest.raises(exceptions.BadRequest):
        clients.attach(source)


def test_unknown_disks_and_machines_are_not_found_by_their_path(cloud: Emulation, clients: Clients) -> None:
    missing = f"{ZONES}/us-central1-b/disks/nobody"
    with pytest.raises(exceptions.NotFound, match=f"The resource '{missing}' was not found"):
        clients.attach(missing)
    with pytest.raises(exceptions.NotFound, match="instances/nobody' was not found"):
        clients.attach(cloud.make_disk("evidence-7"), "nobody")


def test_detaching_a_name_that_is_not_there_is_refused(clients: Clients) -> None:
    with pytest.raises(exceptions.BadRequest, match="No attached disk found with device name 'nobody'"):
        clients.detach("nobody")


def test_detaching_a_disk_that_is_being_attached_is_refused_as_not_there(cloud: Emulation, clients: Clients) -> None:
    """A caller that takes this for success orphans the attachment."""
    disk = cloud.make_disk("evidence-7")
    cloud.faults.add(Fault("instances.attachDisk", Effect.HANG))
    clients.attach(disk, device_name="e")
    with pytest.raises(exceptions.BadRequest, match="No attached disk found"):
        clients.detach("e")
    cloud.timeline.release()
    assert clients.users(disk) == ["worker-1"]


def test_the_boot_disk_stays(clients: Clients) -> None:
    with pytest.raises(exceptions.BadRequest, match="boot disk"):
        clients.detach("persistent-disk-0")


def test_waiting_ends_with_the_operation(cloud: Emulation, clients: Clients) -> None:
    cloud.faults.add(Fault("instances.attachDisk", Effect.LATE, seconds=0.2))
    assert clients.wait(clients.attach(cloud.make_disk("evidence-7"))).status.name == "DONE"


def test_waiting_may_end_before_the_operation(tmp_path: Path) -> None:
    with Emulation(tmp_path / "impatient", wait_limit_seconds=0.05) as cloud:
        cloud.make_instance("worker-1")
        clients = Clients(cloud)
        cloud.faults.add(Fault("instances.attachDisk", Effect.HANG))
        assert clients.wait(clients.attach(cloud.make_disk("evidence-7"))).status.name == "RUNNING"


def test_waiting_holds_up_nobody(cloud: Emulation, clients: Clients) -> None:
    cloud.faults.add(Fault("instances.attachDisk", Effect.HANG))
    operation = clients.attach(cloud.make_disk("evidence-7"))
    waiting = threading.Thread(target=clients.wait, args=(operation,))
    waiting.start()
    assert clients.device_names() == ["persistent-disk-0"]
    cloud.timeline.release()
    waiting.join(10)
    assert not waiting.is_alive()


def test_an_operation_can_lie_and_fail(cloud: Emulation, clients: Clients) -> None:
    disk = cloud.make_disk("evidence-7")
    cloud.faults.add(Fault("instances.attachDisk", Effect.LIE))
    reported = clients.wait(clients.attach(disk))
    assert (reported.status.name, list(reported.error.errors), clients.users(disk)) == ("DONE", [], [])
    cloud.faults.add(Fault("instances.attachDisk", Effect.FAIL, code="INTERNAL_ERROR"))
    assert clients.wait(clients.attach(disk)).error.errors[0].code == "INTERNAL_ERROR"


def test_stale_reads_show_what_was(cloud: Emulation, clients: Clients) -> None:
    disk = cloud.make_disk("evidence-7")
    cloud.faults.add(Fault("disks.get", Effect.STALE, times=0))
    clients.attach(disk)
    assert clients.users(disk) == []
    cloud.faults.clear()
    assert clients.users(disk) == ["worker-1"]


def test_the_cloud_takes_its_time_when_it_is_told_to(tmp_path: Path) -> None:
    with Emulation(tmp_path / "real", pace=1.0) as cloud:
        cloud.timeline.freeze()
        cloud.make_instance("worker-1")
        clients = Clients(cloud)
        operation = clients.attach(cloud.make_disk("evidence-7"), device_name="e")
        assert clients.device_names() == ["persistent-disk-0"]
        cloud.timeline.advance(10)
        assert clients.wait(operation).status.name == "DONE"
        assert clients.device_names() == ["persistent-disk-0", "e"]
