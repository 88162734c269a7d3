"""What the Compute Engine provider does beyond the conformance suite when it attaches, locates and detaches."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from cloudmanager.core.errors import (
    AccessDenied,
    AttachLimit,
    CloudError,
    CloudUnavailable,
    DeviceError,
    DeviceMismatch,
    DiskInUse,
    Throttled,
    WrongZone,
)
from cloudmanager.core.model import CONFIRMED, Access, Device, NotAttached, Query
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.hardware import ScsiDisk
from cloudmanager.testing.conformance import Trouble
from cloudmanager.testing.conformance.checks import assert_is, attach, describe, plan
from cloudmanager.testing.conformance.emulated import NEIGHBOUR, NODE
from cloudmanager.testing.conformance.locating import LocatingChecks
from tests.providers.gce.harness import ATTACH, DETACH, GceHarness, NvmeHarness, ends_with, says
from tests.providers.gce.test_docs import permissions


class TestOnNvme(LocatingChecks):
    """Machine types without SCSI: only the way to the device differs, so only that is checked."""

    harness_type = NvmeHarness


@pytest.fixture
def provider(harness: GceHarness) -> Provider:
    return harness.make_provider()


def operations(harness: GceHarness) -> list[str]:
    asked = [call.operation for call in harness.calls]
    harness.calls.clear()
    return asked


def test_no_more_calls_are_made_than_the_protocol_needs(harness: GceHarness, provider: Provider) -> None:
    native = harness.make_disk()
    disk = describe(provider, native)
    assert operations(harness) == ["disks.get"]
    made = provider.plan_attach(disk, Access.READ_ONLY)
    assert operations(harness) == ["instances.get", "disks.get"]
    attachment = provider.attach(made)
    assert operations(harness) == [ATTACH, "zoneOperations.wait", "instances.get", "disks.get"]
    provider.locate(disk)
    assert operations(harness) == ["instances.get"]
    provider.attach(replace(made, proof=CONFIRMED))
    assert operations(harness) == ["instances.get", "zoneOperations.list", "disks.get"]
    provider.attach(made)
    assert operations(harness) == ["instances.get", "zoneOperations.list", "zoneOperations.list", "disks.get"]
    attachment = replace(attachment, proof=CONFIRMED)
    provider.detach(attachment)
    assert operations(harness) == ["instances.get", "disks.get", DETACH, "zoneOperations.wait", "instances.get"]


def test_a_device_under_our_name_needs_no_more_calls(harness: GceHarness) -> None:
    """Seven calls from the name to the device: the look that has confirmed the attach is young enough."""
    provider = harness.make_provider(look_seconds=60)
    attached = attach(provider, harness.make_disk())
    assert len(operations(harness)) == 7
    assert isinstance(provider.locate(attached.disk), Device)
    assert isinstance(provider.locate_all([attached.disk])[attached.disk.id], Device)
    assert operations(harness) == []


def test_our_own_part_of_an_attach_takes_little_time(harness: GceHarness, provider: Provider) -> None:
    """The emulator answers at once; its own work is in the figure too. The best of five, for a busy machine."""
    attach(provider, harness.make_disk())
    took = []
    for _ in range(5):
        made = plan(provider, harness.make_disk())
        started = time.thread_time()
        provider.attach(made)
        provider.locate(made.disk)
        took.append(time.thread_time() - started)
    assert min(took) < 0.15


def test_a_disk_that_others_read_is_attached_read_only_too(harness: GceHarness, provider: Provider) -> None:
    native = harness.make_disk()
    harness.cloud.attach_by_hand(harness.emulated_id(native), NEIGHBOUR, read_only=True)
    done = attach(provider, native, Access.SCRATCH)
    assert done.attachment.access is Access.READ_ONLY


def test_a_disk_that_another_writes_is_not_read(harness: GceHarness, provider: Provider) -> None:
    native = harness.make_disk()
    harness.attach_elsewhere(native)
    with pytest.raises(DiskInUse):
        attach(provider, native, Access.READ_ONLY)


def test_a_regional_disk_is_attached_where_it_has_a_replica(harness: GceHarness, provider: Provider) -> None:
    native = harness.make_disk(location="us-central1")
    done = attach(provider, native)
    assert_is(provider.locate(done.disk), harness, native)
    provider.detach(done.attachment)


def test_a_disk_of_another_zone_is_refused_without_a_mutation(harness: GceHarness, provider: Provider) -> None:
    native = harness.make_disk(location="us-central1-a")
    with pytest.raises(WrongZone, match="us-central1-a, and this instance in us-central1-b"):
        attach(provider, native)
    assert harness.calls.mutations() == []


@pytest.mark.parametrize(
    "disk_type", ["hyperdisk-balanced", "hyperdisk-balanced-high-availability", "hyperdisk-ml", "hyperdisk-next"]
)
def test_what_google_does_not_attach_read_only_is_attached_writable_and_says_so(
    harness: GceHarness, provider: Provider, disk_type: str
) -> None:
    """Whatever its type: no list of types is right for long."""
    native = harness.native_id(harness.cloud.make_disk("hyper", disk_type=disk_type))
    made = plan(provider, native, Access.READ_ONLY)
    attachment = provider.attach(made)
    assert (attachment.access, attachment.request_id) == (Access.READ_WRITE, made.request_id)
    assert_is(provider.locate(made.disk), harness, native)
    again = harness.make_provider().attach(made)  # after a crash: nothing was kept of the answer
    assert (again.access, again.request_id) == (Access.READ_WRITE, made.request_id)
    harness.make_provider().detach(again)
    assert harness.holders(native) == []


@pytest.mark.parametrize(
    "refusal",
    [
        says("badRequest", 400, "hyperdisk-next cannot be used in READ_ONLY mode."),
        says("invalid", 400, "The mode is not one of this disk's."),
        ends_with("UNSUPPORTED_OPERATION", "READ_ONLY is not supported for this disk."),
    ],
    ids=["by-its-words", "in-other-words", "as-a-failed-operation"],
)
def test_a_refusal_of_read_only_is_known_in_each_form(harness: GceHarness, provider: Provider, refusal: Fault) -> None:
    made = plan(provider, harness.make_disk(), Access.READ_ONLY)
    harness.cloud.faults.add(replace(refusal, operation=ATTACH))
    assert provider.attach(made).access is Access.READ_WRITE


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (says("forbidden", 403, "Required 'compute.disks.useReadOnly' permission for 'x'"), AccessDenied),
        (ends_with("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", "It is in use in READ_ONLY mode by 'y'."), DiskInUse),
        (says("backendError", 503, "read-only"), CloudUnavailable),
    ],
    ids=["denied", "in-use", "an-outage"],
)
def test_another_refusal_leads_to_no_writable_attach(
    harness: GceHarness, provider: Provider, refusal: Fault, error: type[Exception]
) -> None:
    made = plan(provider, harness.make_disk(), Access.READ_ONLY)
    harness.cloud.faults.add(replace(refusal, operation=ATTACH, times=0))
    with pytest.raises(error):
        provider.attach(made)
    assert harness.holders(made.disk.id.native) == []


def test_without_the_right_to_write_the_missing_permission_is_named(harness: GceHarness, provider: Provider) -> None:
    made = plan(provider, harness.native_id(harness.cloud.make_disk("hyper", disk_type="hyperdisk-balanced")))
    with_it = permissions("disks")
    harness.cloud.granted = with_it - {"compute.disks.use"}
    with pytest.raises(AccessDenied, match=r"'compute\.disks\.use'"):
        provider.attach(replace(made, access=Access.READ_ONLY))


def test_what_was_attached_read_write_by_hand_can_be_read(harness: GceHarness, provider: Provider) -> None:
    native = harness.make_disk()
    harness.cloud.attach_by_hand(harness.emulated_id(native), NODE, read_only=False, slot="theirs")
    made = plan(provider, native, Access.READ_ONLY)
    assert (made.is_present, made.slot, made.access) == (True, "theirs", Access.READ_WRITE)
    assert provider.attach(made).access is Access.READ_WRITE
    assert_is(provider.locate(made.disk), harness, native)


def test_a_disk_for_readers_has_no_read_write_exports(harness: GceHarness, provider: Provider) -> None:
    path = harness.cloud.make_disk("shared-model", disk_type="hyperdisk-ml")
    harness.cloud.state.disks[path].access_mode = "READ_ONLY_MANY"
    assert describe(provider, harness.native_id(path)).access == {Access.READ_ONLY, Access.SCRATCH}


def test_a_connection_that_breaks_after_the_attach_makes_no_second_one(harness: GceHarness, provider: Provider) -> None:
    made = plan(provider, harness.make_disk())
    harness.cloud.faults.add(Fault(ATTACH, Effect.CUT_AFTER))
    assert provider.attach(made).request_id == made.request_id
    assert len(harness.cloud.guests[NODE].plugged) == 2


def test_an_attach_that_failed_once_is_tried_again_with_the_same_plan(harness: GceHarness, provider: Provider) -> None:
    """Compute Engine answers a repeated request id with the operation that failed."""
    native = harness.make_disk()
    made = plan(provider, native)
    harness.cloud.faults.add(Fault(ATTACH, Effect.FAIL, code="INTERNAL_ERROR"))
    with pytest.raises(CloudUnavailable):
        provider.attach(made)
    attachment = provider.attach(made)
    assert (attachment.slot, attachment.request_id) == (made.slot, made.request_id)
    assert_is(provider.locate(made.disk), harness, native)


def test_a_disk_that_was_detached_by_hand_is_attached_again_with_the_same_plan(
    harness: GceHarness, provider: Provider
) -> None:
    native = harness.make_disk()
    done = attach(provider, native)
    harness.detach_by_hand(native)
    assert provider.attach(done.plan) == done.attachment
    assert_is(provider.locate(done.disk), harness, native)


def test_an_operation_is_waited_for_again_when_waiting_ends_early(tmp_path: Path) -> None:
    with GceHarness(tmp_path) as harness:
        harness.cloud.operations._wait_limit_seconds = 0.05
        harness.cloud.faults.add(Fault(ATTACH, Effect.LATE, seconds=0.4))
        provider = harness.make_provider()
        attach(provider, harness.make_disk())
        waits = operations(harness).count("zoneOperations.wait")
        assert 2 <= waits <= 12  # not as fast as it can


def test_a_throttled_request_is_made_again_when_the_cloud_says(harness: GceHarness, provider: Provider) -> None:
    native = harness.make_disk()
    harness.cloud.faults.add(Fault("disks.get", Effect.THROTTLE, retry_after=0.3))
    started = time.monotonic()
    describe(provider, native)
    assert time.monotonic() - started >= 0.3


def test_the_last_error_is_kept_as_it_was(harness: GceHarness, provider: Provider) -> None:
    native = harness.make_disk()
    harness.cloud.faults.add(Fault("disks.get", Effect.THROTTLE, times=0, form="429"))
    with pytest.raises(Throttled) as caught:
        describe(provider, native)
    assert caught.value.cloud_code == "rateLimitExceeded"
    assert operations(harness).count("disks.get") == harness.table()["retry_attempts"]


def test_a_device_that_stays_after_its_detach_is_an_error_until_it_goes(
    harness: GceHarness, provider: Provider
) -> None:
    done = attach(provider, harness.make_disk())
    harness.cloud.faults.add(Fault("guest.unplug", Effect.HANG))
    for _ in range(2):
        with pytest.raises(DeviceError, match="still on this machine") as caught:
            provider.detach(done.attachment)
        assert caught.value.retriable
    harness.recover()
    provider.detach(done.attachment)


def test_two_devices_of_one_name_are_both_refused(harness: GceHarness, provider: Provider, tmp_path: Path) -> None:
    done = attach(provider, harness.make_disk())
    other = tmp_path / "other.img"
    other.write_bytes(bytes(1024 * 1024))
    impostor = ScsiDisk("Google", "PersistentDisk", done.plan.slot, (0, 0, 99, 0))
    harness.cloud.guests[NODE].plug("impostor", other, impostor)
    with pytest.raises(DeviceMismatch, match="both say"):
        provider.locate(done.disk)


@pytest.mark.parametrize("vendor", ["Msft", "Google2"])
def test_another_vendor_s_disk_is_not_believed(harness: GceHarness, provider: Provider, vendor: str) -> None:
    native = harness.make_disk()
    harness.inject(Trouble.DEVICE_IS_MISSING)
    done = attach(provider, native)
    impostor = ScsiDisk(vendor, "PersistentDisk", done.plan.slot, (0, 0, 99, 0))
    harness.cloud.guests[NODE].plug("impostor", harness.cloud.backing(harness.emulated_id(native)), impostor)
    with pytest.raises(DeviceError):
        provider.locate(done.disk)


def test_not_attached_is_not_said_while_an_attach_is_under_way(harness: GceHarness, provider: Provider) -> None:
    made = plan(provider, harness.make_disk())
    harness.cloud.faults.add(Fault(ATTACH, Effect.HANG))
    with pytest.raises(CloudUnavailable):
        provider.attach(made)
    with pytest.raises(DeviceError):
        provider.locate(made.disk)
    harness.recover()
    provider.detach(made.attachment())
    assert isinstance(provider.locate(made.disk), NotAttached)


def test_the_mode_of_a_foreign_attachment_is_seen(harness: GceHarness, provider: Provider) -> None:
    native = harness.make_disk()
    harness.cloud.attach_by_hand(harness.emulated_id(native), NODE, read_only=True, slot="theirs")
    made = plan(provider, native, Access.READ_ONLY)
    assert (made.is_present, made.slot, made.access) == (True, "theirs", Access.READ_ONLY)
    assert provider.attach(made).request_id == ""


def test_detaching_an_unknown_slot_detaches_what_is_there(harness: GceHarness, provider: Provider) -> None:
    """An attachment without a slot is an operator's explicit wish."""
    native = harness.make_disk()
    done = attach(provider, native)
    provider.detach(replace(done.attachment, slot=""))
    assert harness.holders(native) == []


def test_an_instance_that_does_not_exist_is_said_to_be_so(harness: GceHarness) -> None:
    native = harness.make_disk()
    provider = harness.make_provider(instance="nobody")
    with pytest.raises(CloudError, match="no instance projects/acme-forensics/zones/us-central1-b/instances/nobody"):
        attach(provider, native)


def test_a_regional_disk_is_not_taken_for_a_zonal_one_of_its_name(harness: GceHarness, provider: Provider) -> None:
    zonal, regional = harness.make_disk("twin"), harness.make_disk("twin", location="us-central1")
    attach(provider, zonal)
    assert isinstance(provider.locate(describe(provider, regional)), NotAttached)
    assert isinstance(provider.locate(describe(provider, zonal)), Device)


def test_no_more_disks_are_attached_than_the_setting_allows(harness: GceHarness) -> None:
    provider = harness.make_provider(max_disks=2)
    attach(provider, harness.make_disk())
    harness.calls.clear()
    with pytest.raises(AttachLimit, match="2 of the 2 disks that max_disks allows"):
        plan(provider, harness.make_disk())
    assert harness.calls.mutations() == []


def test_the_boot_disk_is_known_and_never_offered_read_write(harness: GceHarness, provider: Provider) -> None:
    native, other = f"us-central1-b/{NODE}", harness.make_disk()
    disk = describe(provider, native)
    assert (disk.is_boot, disk.is_attached, disk.access) == (True, True, frozenset(Access) - {Access.READ_WRITE})
    neighbour = describe(provider, f"us-central1-b/{NEIGHBOUR}")
    assert (neighbour.is_boot, neighbour.is_attached, Access.READ_WRITE in neighbour.access) == (False, False, True)
    attach(provider, other)
    attached = describe(provider, other)
    assert (attached.is_boot, attached.is_attached, Access.READ_WRITE in attached.access) == (False, True, True)
    listed = {each.id.native: each.is_boot for each in provider.find(Query()).items}
    assert (listed[native], listed[other]) == (True, False)


def test_a_foreign_boot_disk_is_read_as_it_is(harness: GceHarness, provider: Provider) -> None:
    made = plan(provider, f"us-central1-b/{NODE}", Access.READ_ONLY)
    assert provider.attach(made).request_id == ""
    assert_is(provider.locate(made.disk), harness, f"us-central1-b/{NODE}")


def test_the_boot_disk_is_there_and_not_ours(harness: GceHarness, provider: Provider) -> None:
    made = plan(provider, f"us-central1-b/{NODE}")
    assert (made.is_present, made.slot) == (True, "persistent-disk-0")
