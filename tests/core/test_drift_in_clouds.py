"""What is done to an attached cloud disk, by the console or in the machine, is noticed and never served wrongly."""

import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import pytest

from cloudmanager import hookimpl
from cloudmanager.core.errors import DeviceMismatch
from cloudmanager.core.model import AttachmentState, Device, Disk, ExportState, NotAttached
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.conformance import Trouble
from cloudmanager.testing.conformance.emulated import NODE
from tests.core.cloud_bench import CLOUDS, GIB, CloudBench, opened_cloud, start_of
from tests.core.nbd.client import Client
from tests.waiting import eventually


@pytest.fixture(params=["gce", pytest.param("aws", marks=pytest.mark.slow), "azure"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CloudBench]:
    with opened_cloud(tmp_path, request.param) as bench:
        yield bench


@pytest.fixture(params=CLOUDS)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CloudBench]:
    """On every kind of hardware; nothing is looked at of itself."""
    with opened_cloud(tmp_path, request.param, reconcile_seconds=600) as bench:
        yield bench


def test_a_disk_that_was_detached_by_hand_is_attached_by_a_new_plan_and_served_on_its_address(
    bench: CloudBench,
) -> None:
    disk = bench.harness.make_disk()
    export = bench.ready(disk)
    pid = bench.pid(export)
    (before,) = bench.manager.attachments()
    with Client.greeted(export.port or 0, export.name) as client:
        bench.harness.detach_by_hand(disk)
        assert client.is_cut()
    again = bench.served_anew(export, pid)
    assert (again.uri, again.error) == (export.uri, None)
    assert start_of(again) == bench.harness.content(disk)
    (after,) = bench.manager.attachments()
    assert after.state is AttachmentState.ATTACHED
    assert after.plan.request_id != before.plan.request_id


def test_a_disk_that_the_cloud_has_detached_is_not_served_though_its_device_is_still_there(bench: CloudBench) -> None:
    disk = bench.harness.make_disk()
    export = bench.ready(disk)
    bench.cloud.faults.add(Fault("guest.unplug", Effect.HANG))
    with Client.greeted(export.port or 0, export.name) as client:
        bench.harness.detach_by_hand(disk)
        assert bench.plugged(disk).node.exists()
        assert client.is_cut()
    operation = bench.harness.attach_operation
    eventually(lambda: sum(call.operation == operation for call in bench.harness.calls) == 2)


class Mistaken:
    """A cloud that answers with what was true some time ago."""

    def __init__(self) -> None:
        self.is_mistaken = threading.Event()

    @hookimpl(wrapper=True)
    def locate_all(self, disks: Sequence[Disk]) -> Generator[None, object, object]:
        answer = yield
        if not self.is_mistaken.is_set():
            return answer
        self.is_mistaken.clear()
        return {disk.id: NotAttached("It was not, once.") for disk in disks}


def test_what_is_ours_stays_ours_when_the_cloud_was_wrong(bench: CloudBench) -> None:
    mistaken = Mistaken()
    bench.manager.close()
    bench.others.append(("mistaken", mistaken))
    bench.open()
    disk = bench.harness.make_disk()
    export = bench.ready(disk)
    pid = bench.pid(export)
    mistaken.is_mistaken.set()
    again = bench.served_anew(export, pid)
    assert start_of(again) == bench.harness.content(disk)
    assert [each.state for each in bench.manager.attachments()] == [AttachmentState.ATTACHED]
    bench.manager.release(export.id)
    eventually(lambda: not bench.harness.holders(disk))


class Swapped:
    """A provider that finds another disk where the disk should be, which no operation of the cloud explains."""

    def __init__(self) -> None:
        self.is_swapped = threading.Event()

    @hookimpl(wrapper=True)
    def locate_all(self) -> Generator[None, object, object]:
        answer = yield
        return {} if self.is_swapped.is_set() else answer

    @hookimpl(wrapper=True)
    def locate(self) -> Generator[None, object, object]:
        answer = yield
        if self.is_swapped.is_set():
            raise DeviceMismatch("The device has the serial number of another disk.")
        return answer


def test_a_device_that_turns_out_to_be_another_disk_is_not_served_and_its_export_fails(tmp_path: Path) -> None:
    swapped = Swapped()
    with opened_cloud(tmp_path, "gce") as bench:
        bench.manager.close()
        bench.others.append(("swapped", swapped))
        bench.open()
        export = bench.ready(bench.harness.make_disk())
        with Client.greeted(export.port or 0, export.name) as client:
            swapped.is_swapped.set()
            assert client.is_cut()
        failed = bench.over(export)
        swapped.is_swapped.clear()
        assert failed.error is not None
        assert (failed.state, failed.error.code) == (ExportState.FAILED, "device_mismatch")


def test_another_disk_in_the_place_of_the_disk_is_never_served(bench: CloudBench) -> None:
    disk, other = bench.harness.make_disk(), bench.harness.make_disk()
    export = bench.ready(disk)
    pid = bench.pid(export)
    (attachment,) = bench.manager.attachments()
    bench.harness.detach_by_hand(disk)
    bench.cloud.attach_by_hand(bench.harness.emulated_id(other), NODE, slot=attachment.plan.slot)
    again = bench.served_anew(export, pid)
    assert start_of(again) == bench.harness.content(disk)
    bench.manager.release(export.id)
    eventually(lambda: not bench.harness.holders(disk))
    assert bench.harness.holders(other) == [NODE]


def test_a_disk_that_was_deleted_fails_its_exports(bench: CloudBench) -> None:
    disk = bench.harness.make_disk()
    export = bench.ready(disk)
    bench.harness.delete_disk(disk)
    failed = bench.over(export)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (ExportState.FAILED, "disk_not_found")
    eventually(lambda: not bench.manager.attachments())


def test_a_disk_that_has_grown_is_served_on_and_a_new_export_has_all_of_it(bench: CloudBench) -> None:
    disk = bench.harness.make_disk()
    export = bench.ready(disk)
    pid = bench.pid(export)
    bench.grow(disk)
    error = eventually(lambda: bench.manager.get(export.id).error)
    assert str(2 * GIB) in error.detail
    assert bench.manager.get(export.id).size_bytes == GIB
    assert bench.pid(export) == pid
    assert bench.ready(disk, holder="bob").size_bytes == 2 * GIB


def test_a_cloud_that_cannot_be_asked_is_no_proof_of_anything(bench: CloudBench) -> None:
    disk = bench.harness.make_disk()
    export = bench.ready(disk)
    pid = bench.pid(export)
    bench.harness.inject(Trouble.READS_FAIL)
    assert eventually(lambda: bench.manager.get(export.id).error)
    assert start_of(export) == bench.harness.content(disk)
    bench.harness.recover()
    eventually(lambda: bench.manager.get(export.id).error is None)
    assert bench.manager.get(export.id).state is ExportState.READY
    assert bench.pid(export) == pid


def test_a_look_costs_one_call_however_many_disks_there_are(machine: CloudBench) -> None:
    for _ in range(3):
        machine.ready(machine.harness.make_disk())
    drift = machine.manager._reconciler._drift
    machine.harness.calls.clear()
    drift.look(machine.provider)
    assert len(machine.harness.calls) == 0
    machine.clock.ahead = 600
    machine.harness.calls.clear()
    drift.look(machine.provider)
    assert len(machine.harness.calls) == 1
    assert all(export.error is None for export in machine.exports())


def test_looking_at_all_disks_says_what_locating_each_says(machine: CloudBench) -> None:
    disks = [machine.harness.make_disk() for _ in range(3)]
    exports = [machine.ready(disk) for disk in disks]
    located = machine.provider.locate_all([export.disk for export in exports])
    assert located == {export.disk.id: machine.provider.locate(export.disk) for export in exports}
    assert all(isinstance(device, Device) for device in located.values())


def test_a_throttling_cloud_is_asked_again_when_it_wants_to_be(tmp_path: Path) -> None:
    with opened_cloud(tmp_path, "gce", reconcile_seconds=600) as bench:
        bench.ready(bench.harness.make_disk())
        bench.clock.ahead = 600
        bench.cloud.faults.add(Fault("*", Effect.THROTTLE, times=0, retry_after=7200))
        assert bench.manager._reconciler._drift.look(bench.provider) == 7200


def test_an_instance_that_was_renamed_is_shown_and_its_exports_go_on(tmp_path: Path) -> None:
    with opened_cloud(tmp_path, "gce") as bench:
        disk = bench.harness.make_disk()
        export = bench.ready(disk)
        instances = bench.cloud.state.instances
        instance = next(each for each in instances.values() if each.name == NODE)
        del instances[instance.path]
        instance.name = "renamed"
        instances[instance.path] = instance
        error = eventually(lambda: bench.manager.get(export.id).error)
        assert "renamed" in error.detail
        assert start_of(export) == bench.harness.content(disk)
        del instances[instance.path]
        instance.name = NODE
        instances[instance.path] = instance
        eventually(lambda: bench.manager.get(export.id).error is None)
