"""The machine boots: what is there is recognised, what is not there is not adopted, addresses stay."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager import Access
from cloudmanager.core.model import AttachmentState, ExportState
from cloudmanager.testing.conformance.emulated import NODE
from tests.core.cloud_bench import CloudBench, opened_cloud, start_of
from tests.waiting import eventually


@pytest.fixture(params=["gce", "aws"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CloudBench]:
    with opened_cloud(tmp_path, request.param) as bench:
        yield bench


def attaches(bench: CloudBench) -> int:
    return sum(call.operation == bench.harness.attach_operation for call in bench.harness.calls)


def test_a_disk_that_is_still_attached_is_recognised_and_its_export_is_back_on_its_address(bench: CloudBench) -> None:
    disk = bench.harness.make_disk()
    export = bench.ready(disk)
    pid = bench.pid(export)
    bench.boot()
    again = bench.served_anew(export, pid)
    assert (again.uri, again.error) == (export.uri, None)
    assert start_of(again) == bench.harness.content(disk)
    assert attaches(bench) == 1
    assert [each.state for each in bench.manager.attachments()] == [AttachmentState.ATTACHED]
    bench.manager.release(export.id)
    eventually(lambda: not bench.harness.holders(disk))


def test_a_disk_that_was_detached_while_the_machine_was_away_is_attached_again(bench: CloudBench) -> None:
    disk = bench.harness.make_disk()
    export = bench.ready(disk)
    pid = bench.pid(export)
    bench.boot(lambda: bench.harness.detach_by_hand(disk))
    again = bench.served_anew(export, pid)
    assert again.uri == export.uri
    assert start_of(again) == bench.harness.content(disk)
    assert attaches(bench) == 2


def test_a_disk_whose_device_has_another_number_after_the_boot_is_found(bench: CloudBench) -> None:
    disk, other = bench.harness.make_disk(), bench.harness.make_disk()
    export = bench.ready(disk)
    pid = bench.pid(export)
    (attachment,) = bench.manager.attachments()
    before = bench.plugged(disk).loop

    def shuffle() -> None:
        bench.harness.detach_by_hand(disk)
        bench.harness.attach_by_hand(other)
        bench.cloud.attach_by_hand(bench.harness.emulated_id(disk), NODE, slot=attachment.plan.slot)

    bench.boot(shuffle)
    again = bench.served_anew(export, pid)
    assert bench.plugged(disk).loop != before or bench.plugged(other).loop != before
    assert start_of(again) == bench.harness.content(disk)
    bench.manager.release(export.id)
    eventually(lambda: not bench.harness.holders(disk))
    assert bench.harness.holders(other) == [NODE]


def test_scratch_exports_fail_with_the_reason_and_others_of_the_disk_come_back(bench: CloudBench) -> None:
    disk = bench.harness.make_disk()
    scratch, reader = bench.ready(disk, Access.SCRATCH), bench.ready(disk, holder="bob")
    pid = bench.pid(reader)
    bench.boot()
    failed = bench.over(scratch)
    assert failed.error is not None
    assert failed.state is ExportState.FAILED
    assert "restarted" in failed.error.detail
    assert start_of(bench.served_anew(reader, pid)) == bench.harness.content(disk)
    assert not (bench.settings.server.state_dir / "exports" / scratch.id).exists()


def test_a_writers_disk_is_writable_again_after_the_boot(bench: CloudBench) -> None:
    disk = bench.harness.make_disk()
    export = bench.ready(disk, Access.READ_WRITE)
    pid = bench.pid(export)
    bench.boot()
    again = bench.served_anew(export, pid)
    bench.write(again, b"after the boot")
    assert start_of(again)[:14] == b"after the boot"
