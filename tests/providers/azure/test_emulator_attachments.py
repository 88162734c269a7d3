"""The emulated Azure attaches and detaches as the real one does, and refuses in its words."""

import os
import subprocess
from pathlib import Path

import pytest

from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.emulation import ATTACH, GROUP, SUBSCRIPTION
from cloudmanager.testing.cloud.azure.operations import Form
from cloudmanager.testing.cloud.azure.state import Controller
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.azure.clients import Sdk, Wire, disk_path, error_of, machine_path, refused

MIB = 1024**2


def test_an_attached_disk_has_its_bytes_in_the_guest(cloud: AzureEmulation, sdk: Sdk, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(os.urandom(MIB))
    disk = cloud.make_disk("evidence-7", size_bytes=MIB, content=content)
    sdk.attach(disk)
    node = next(plugged.node for key, plugged in cloud.guests["worker-1"].plugged.items() if key == disk.casefold())
    assert subprocess.check_output(["head", "-c", str(MIB), node]) == content.read_bytes()


def test_the_result_of_an_attach_has_no_disks_and_the_machine_has(cloud: AzureEmulation, sdk: Sdk) -> None:
    result = sdk.attach(cloud.make_disk("evidence-7"), lun=5)
    assert result.data_disks is None
    assert sdk.luns() == {"evidence-7": 5}


def test_the_location_form_ends_with_the_storage_profile(cloud: AzureEmulation, sdk: Sdk, wire: Wire) -> None:
    cloud.form = Form.LOCATION
    disk = cloud.make_disk("evidence-7")
    accepted = wire.attach({"dataDisksToAttach": [{"diskId": disk, "lun": 5}]})
    assert (accepted.status_code, "Azure-AsyncOperation" in accepted.headers) == (202, False)
    assert wire.http.get(accepted.headers["Location"]).json()["dataDisks"][0]["lun"] == 5
    assert [entry.lun for entry in sdk.attach(cloud.make_disk("evidence-8"), lun=6).data_disks or []] == [5, 6]


def test_the_answer_to_a_detach_marks_the_disk_and_has_no_location(cloud: AzureEmulation, wire: Wire) -> None:
    cloud.faults.add(Fault(f"{ATTACH}/detach", Effect.HANG))
    disk = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(disk, "worker-1")
    answer = wire.attach({"dataDisksToDetach": [{"diskId": disk}]})
    assert answer.status_code == 200
    assert answer.json()["dataDisks"][0]["toBeDetached"] is True
    assert "Azure-AsyncOperation" in answer.headers
    assert "ETag" in answer.headers
    assert not {"Location", "Retry-After"} & set(answer.headers)


def test_a_status_document_ends_as_recorded(cloud: AzureEmulation, wire: Wire) -> None:
    started = wire.attach({"dataDisksToAttach": [{"diskId": cloud.make_disk("evidence-7")}]})
    document = wire.http.get(started.headers["Azure-AsyncOperation"]).json()
    assert set(document) == {"startTime", "endTime", "status", "name"}
    assert document["status"] == "Succeeded"


def test_an_attach_that_runs_is_in_the_model_and_not_in_the_disk(cloud: AzureEmulation, sdk: Sdk, wire: Wire) -> None:
    cloud.faults.add(Fault(f"{ATTACH}/attach", Effect.HANG))
    disk = cloud.make_disk("evidence-7")
    started = wire.attach({"dataDisksToAttach": [{"diskId": disk, "lun": 9}]})
    assert wire.http.get(started.headers["Azure-AsyncOperation"]).json()["status"] == "InProgress"
    assert sdk.luns() == {"evidence-7": 9}
    assert sdk.client.virtual_machines.get(GROUP, "worker-1").properties.provisioning_state == "Updating"
    assert wire.get(disk_path("evidence-7"), "2026-03-02").json()["properties"]["diskState"] == "Unattached"
    cloud.timeline.release()
    assert wire.http.get(started.headers["Azure-AsyncOperation"]).json()["status"] == "Succeeded"
    assert sdk.client.disks.get(GROUP, "evidence-7").managed_by.casefold() == machine_path("worker-1").casefold()


def test_a_detached_disk_leaves_model_disk_and_guest(cloud: AzureEmulation, sdk: Sdk) -> None:
    disk = cloud.make_disk("evidence-7")
    sdk.attach(disk)
    sdk.detach(disk)
    assert sdk.luns() == {}
    assert sdk.client.disks.get(GROUP, "evidence-7").properties.disk_state == "Unattached"
    assert disk.casefold() not in cloud.guests["worker-1"].plugged


def test_an_owned_disk_fails_later_with_status_200_and_names_its_owner(cloud: AzureEmulation, sdk: Sdk) -> None:
    disk = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(disk, "worker-2")
    assert refused(lambda: sdk.attach(disk)) == (200, "ConflictingUserInput")
    assert sdk.luns() == {}


def test_a_disk_whose_attach_elsewhere_runs_is_refused_at_once(cloud: AzureEmulation, wire: Wire) -> None:
    cloud.faults.add(Fault(f"{ATTACH}/attach", Effect.HANG))
    wanted = {"dataDisksToAttach": [{"diskId": cloud.make_disk("evidence-7")}]}
    assert wire.attach(wanted, "worker-2").status_code == 200
    status, code, message = error_of(wire.attach(wanted, "worker-1"))
    assert (status, code) == (409, "ConflictingUserInput")
    assert machine_path("worker-2") in message


def test_a_shared_disk_goes_to_as_many_machines_as_its_max_shares(cloud: AzureEmulation, sdk: Sdk) -> None:
    disk = cloud.make_disk("shared-1", is_shared=True)
    for machine in ("worker-3", "worker-4"):
        cloud.make_instance(machine)
    for machine in ("worker-1", "worker-2", "worker-3"):
        sdk.attach(disk, machine=machine)
    assert len(sdk.client.disks.get(GROUP, "shared-1").managed_by_extended or ()) == 3
    assert refused(lambda: sdk.attach(disk, machine="worker-4")) == (200, "ConflictingUserInput")


def test_a_shared_disk_takes_no_host_cache(cloud: AzureEmulation, sdk: Sdk) -> None:
    disk = cloud.make_disk("shared-1", is_shared=True)
    assert refused(lambda: sdk.attach(disk, caching="ReadOnly")) == (400, "InvalidParameter")


def test_a_taken_lun_is_refused(cloud: AzureEmulation, wire: Wire) -> None:
    cloud.attach_by_hand(cloud.make_disk("evidence-7"), "worker-1", slot="63")
    answer = wire.attach({"dataDisksToAttach": [{"diskId": cloud.make_disk("evidence-8"), "lun": 63}]})
    assert error_of(answer) == (400, "InvalidParameter", "A disk at LUN 63 already exists.")


@pytest.mark.parametrize("lun", [-1, 64])
def test_a_lun_out_of_range_is_refused(cloud: AzureEmulation, sdk: Sdk, lun: int) -> None:
    disk = cloud.make_disk("evidence-7")
    assert refused(lambda: sdk.attach(disk, lun=lun)) == (400, "InvalidParameter")


def test_two_disks_of_one_request_cannot_have_one_lun(cloud: AzureEmulation, wire: Wire) -> None:
    wanted = [{"diskId": cloud.make_disk(name), "lun": 7} for name in ("evidence-7", "evidence-8")]
    assert error_of(wire.attach({"dataDisksToAttach": wanted}))[:2] == (400, "InvalidParameter")


def test_a_disk_without_a_lun_gets_the_lowest_free_one(cloud: AzureEmulation, sdk: Sdk) -> None:
    cloud.attach_by_hand(cloud.make_disk("evidence-7"), "worker-1", slot="0")
    sdk.attach(cloud.make_disk("evidence-8"), lun=None)
    assert sdk.luns()["evidence-8"] == 1


def test_a_size_has_a_limit_of_disks(cloud: AzureEmulation, sdk: Sdk) -> None:
    cloud.make_instance("small-1", size="Standard_B1s")
    for name in ("evidence-1", "evidence-2"):
        sdk.attach(cloud.make_disk(name), lun=None, machine="small-1")
    third = cloud.make_disk("evidence-3")
    assert refused(lambda: sdk.attach(third, lun=None, machine="small-1")) == (409, "OperationNotAllowed")
    sdk.detach(cloud.state.disk(cloud.resource("evidence-1", "disks")).id.shouted, machine="small-1")
    sdk.attach(third, lun=None, machine="small-1")


@pytest.mark.parametrize("location", ["westeurope-2", "westeurope", "northeurope-1"])
def test_a_disk_of_another_zone_or_region_is_refused(cloud: AzureEmulation, sdk: Sdk, location: str) -> None:
    disk = cloud.make_disk("far-1", location=location)
    assert refused(lambda: sdk.attach(disk)) == (400, "BadRequest")


def test_a_zone_redundant_disk_goes_to_any_zone_of_its_region(cloud: AzureEmulation, sdk: Sdk) -> None:
    sdk.attach(cloud.make_disk("zrs-1", location="westeurope", sku="Premium_ZRS"), lun=3)
    assert sdk.luns() == {"zrs-1": 3}


def test_a_missing_disk_is_not_found(sdk: Sdk) -> None:
    assert refused(lambda: sdk.attach(disk_path("nothing"))) == (404, "NotFound")


def test_a_disk_that_is_not_attached_cannot_be_detached(cloud: AzureEmulation, sdk: Sdk) -> None:
    disk = cloud.make_disk("evidence-7")
    assert refused(lambda: sdk.detach(disk)) == (400, "InvalidParameter")


def test_a_busy_machine_refuses_another_change(cloud: AzureEmulation, wire: Wire) -> None:
    cloud.faults.add(Fault(f"{ATTACH}/attach", Effect.HANG))
    wire.attach({"dataDisksToAttach": [{"diskId": cloud.make_disk("evidence-7")}]})
    answer = wire.attach({"dataDisksToAttach": [{"diskId": cloud.make_disk("evidence-8")}]})
    assert error_of(answer)[:2] == (409, "Conflict")


def test_a_failed_detach_leaves_the_disk_marked_and_unattachable(cloud: AzureEmulation, sdk: Sdk) -> None:
    cloud.faults.add(Fault(f"{ATTACH}/detach", Effect.FAIL, code="InternalExecutionError"))
    disk = cloud.make_disk("evidence-7")
    sdk.attach(disk)
    assert refused(lambda: sdk.detach(disk)) == (200, "InternalExecutionError")
    assert [entry.to_be_detached for entry in sdk.data_disks()] == [True]
    assert refused(lambda: sdk.attach(disk, machine="worker-2")) == (409, "AttachDiskWhileBeingDetached")
    sdk.detach(disk)
    sdk.attach(disk, machine="worker-2")


def test_a_failed_attach_leaves_nothing_but_a_failed_machine(cloud: AzureEmulation, sdk: Sdk) -> None:
    cloud.faults.add(Fault(f"{ATTACH}/attach", Effect.FAIL, code="OperationPreempted"))
    disk = cloud.make_disk("evidence-7")
    assert refused(lambda: sdk.attach(disk)) == (200, "OperationPreempted")
    assert sdk.luns() == {}
    assert sdk.client.virtual_machines.get(GROUP, "worker-1").properties.provisioning_state == "Failed"
    sdk.attach(disk)
    assert sdk.client.virtual_machines.get(GROUP, "worker-1").properties.provisioning_state == "Succeeded"


def test_a_lie_is_told_with_success(cloud: AzureEmulation, sdk: Sdk) -> None:
    cloud.faults.add(Fault(f"{ATTACH}/*", Effect.LIE, times=2))
    disk = cloud.make_disk("evidence-7")
    sdk.attach(disk)
    assert sdk.luns() == {}
    cloud.attach_by_hand(disk, "worker-1")
    sdk.detach(disk)
    assert list(sdk.luns()) == ["evidence-7"]


def test_a_stale_read_shows_what_was(cloud: AzureEmulation, sdk: Sdk) -> None:
    cloud.faults.add(Fault("VirtualMachines_Get", Effect.STALE))
    cloud.attach_by_hand(cloud.make_disk("evidence-7"), "worker-1")
    assert sdk.luns() == {}
    assert list(sdk.luns()) == ["evidence-7"]


def test_an_old_etag_is_refused(cloud: AzureEmulation, wire: Wire) -> None:
    etag = wire.get(machine_path("worker-1")).headers["ETag"]
    wanted = {"dataDisksToAttach": [{"diskId": cloud.make_disk("evidence-7")}]}
    cloud.attach_by_hand(cloud.make_disk("evidence-8"), "worker-1")
    assert wire.attach(wanted, headers={"If-Match": etag}).status_code == 412
    assert wire.attach(wanted, headers={"If-Match": "*"}).status_code == 200


def test_ids_are_the_same_in_any_letter_case(cloud: AzureEmulation, sdk: Sdk) -> None:
    disk = cloud.make_disk("Evidence-7")
    sdk.attach(disk.upper().replace("/SUBSCRIPTIONS/", "/subscriptions/"), lun=4)
    assert cloud.lun("evidence-7", "WORKER-1") == 4
    sdk.detach(disk.lower())
    assert cloud.holders(disk) == []


def test_a_scsi_guest_shows_luns_on_the_data_controller_only(cloud: AzureEmulation, sdk: Sdk) -> None:
    sdk.attach(cloud.make_disk("evidence-7"), lun=0)
    guest = cloud.guests["worker-1"]
    assert (guest.dev / "disk/azure/scsi1/lun0").resolve() == guest.dev / "sdc"
    assert (guest.dev / "disk/azure/data/by-lun/0").resolve() == guest.dev / "sdc"
    parents = {name: (guest.sys / "block" / name / "device").resolve() for name in ("sda", "sdc")}
    assert {path.name.rpartition(":")[2] for path in parents.values()} == {"0"}
    controllers = {name: (path.parents[2] / "device_id").read_text().strip() for name, path in parents.items()}
    assert controllers["sdc"].startswith("{f8b3781b-")
    assert controllers["sda"].startswith("{f8b3781a-")


def test_an_nvme_guest_shows_lun_plus_two(cloud: AzureEmulation, sdk: Sdk) -> None:
    guest = cloud.make_instance("nvme-1", controller=Controller.NVME)
    sdk.attach(cloud.make_disk("evidence-7"), lun=5, machine="nvme-1")
    shown = {(block / "nsid").read_text().strip() for block in (guest.sys / "block").iterdir()}
    assert shown == {"1", "7"}
    assert (guest.sys / "class/nvme/nvme0/model").read_text().strip() == "MSFT NVMe Accelerator v1.0"


def test_a_deleted_machine_gives_its_disks_back(cloud: AzureEmulation, sdk: Sdk) -> None:
    disk = cloud.make_disk("evidence-7")
    sdk.attach(disk, machine="worker-2")
    cloud.delete_instance("worker-2")
    assert refused(lambda: sdk.client.virtual_machines.get(GROUP, "worker-2")) == (404, "ResourceNotFound")
    sdk.attach(disk)


def test_subscriptions_do_not_see_each_other(cloud: AzureEmulation) -> None:
    disk = cloud.make_disk("evidence-7")
    other = Sdk(cloud, subscription="c4b5a3d2-7e61-4f0a-8b9c-2d3e4f5a6b7c")
    with other.client:
        assert list(other.client.disks.list()) == []
        assert refused(lambda: other.client.disks.get(GROUP, "evidence-7")) == (404, "ResourceNotFound")
    assert SUBSCRIPTION in disk
