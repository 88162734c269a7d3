"""A disk that somebody attached by hand at the very slot that a plan chose is exported, and never detached."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cloudmanager import Access, hookimpl
from cloudmanager.core.errors import CloudUnavailable
from cloudmanager.core.model import AttachmentState, AttachPlan, ExportState
from cloudmanager.core.reconciler import Reconciler
from cloudmanager.testing.cloud.ec2 import Emulation
from cloudmanager.testing.conformance.emulated import NODE
from tests.core.cloud_bench import CloudBench, opened_cloud, start_of
from tests.waiting import eventually


class ByHandInBetween:
    """Attaches a disk by hand just before the service does, where the plan wants it."""

    def __init__(self, bench: CloudBench) -> None:
        self._bench = bench
        self.is_over = False

    @hookimpl(wrapper=True)
    def attach(self, plan: AttachPlan) -> Iterator[None]:
        if not self.is_over:
            self.is_over = True
            _attach_by_hand(self._bench, plan)
        return (yield)  # pluggy's wrappers are generators with a result


class NeverAsks:
    """The service comes as far as its plan: what is there afterwards, it has not done."""

    def __init__(self) -> None:
        self.plans: list[AttachPlan] = []

    @hookimpl(wrapper=True)
    def attach(self, plan: AttachPlan) -> Iterator[None]:
        self.plans.append(plan)
        raise CloudUnavailable("The request is not made.")
        yield


@pytest.fixture(params=["gce", "aws", "azure"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CloudBench]:
    with opened_cloud(tmp_path, request.param) as bench:
        yield bench


def test_what_is_attached_by_hand_at_the_very_slot_between_plan_and_attach_is_never_detached(bench: CloudBench) -> None:
    bench.manager.close()
    bench.others = [("by-hand", ByHandInBetween(bench))]
    manager = bench.open()
    disk = bench.harness.make_disk()
    export = bench.ready(disk)
    assert start_of(export) == bench.harness.content(disk)
    (attachment,) = manager.attachments()
    assert attachment.state is AttachmentState.FOREIGN
    _end(bench, export.id)
    assert bench.harness.holders(disk) == [bench.harness.node_name]
    assert bench.harness.detaches() == 0


def test_the_reason_is_shown_on_the_attachment(tmp_path: Path) -> None:
    """Where a new process finds it there: one that made the plan itself is refused the name by GCE, and plans anew."""
    with opened_cloud(tmp_path, "aws") as bench:
        bench.manager.close()
        bench.others = [("by-hand", ByHandInBetween(bench))]
        bench.open()
        bench.ready(bench.harness.make_disk())
        (attachment,) = bench.manager.attachments()
        assert attachment.error is not None
        assert attachment.error.code == "foreign_attachment"
        assert "nothing proves that a request of this service did that" in attachment.error.detail
        assert "do so by hand" in attachment.error.detail
        (event,) = [each for each in bench.manager.audit().items if each.event == "attachment.foreign"]
        assert event.detail == attachment.error.detail


def test_what_is_attached_by_hand_at_the_very_slot_while_the_service_is_dead_is_never_detached(
    bench: CloudBench,
) -> None:
    disk = bench.harness.make_disk()
    plan = _planned_and_killed(bench, disk)
    _attach_by_hand(bench, plan)
    bench.others = []
    manager = bench.open()
    (export,) = bench.exports()
    assert manager.wait(export.id, 60).state is ExportState.READY
    (attachment,) = manager.attachments()
    assert (attachment.state, attachment.plan.slot) == (AttachmentState.FOREIGN, plan.slot)
    assert attachment.error is not None
    _end(bench, export.id)
    assert bench.harness.detaches() == 0


def test_a_release_before_the_next_try_detaches_nothing_either(
    bench: CloudBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The export is given up while nobody knows whose the attachment is."""
    disk = bench.harness.make_disk()
    plan = _planned_and_killed(bench, disk)
    _attach_by_hand(bench, plan)
    monkeypatch.setattr(Reconciler, "_serve", lambda *_: [])
    bench.others = []
    manager = bench.open()
    _end(bench, bench.exports()[0].id)
    assert bench.harness.holders(disk) == [bench.harness.node_name]
    assert bench.harness.detaches() == 0
    assert "attachment.left" in {each.event for each in manager.audit().items}


@pytest.mark.parametrize("kind", ["aws", "azure"])
@pytest.mark.parametrize("is_restarted", [False, True], ids=["while it is served", "while no service runs"])
def test_what_was_detached_and_attached_again_by_hand_at_its_slot_is_never_detached(
    kind: str, is_restarted: bool, tmp_path: Path
) -> None:
    """GCE knows ours by a name that nobody else has; EC2 and Azure by when it was attached."""
    with opened_cloud(tmp_path, kind, reconcile_seconds=600) as bench:
        export = bench.ready(bench.harness.make_disk())
        disk = export.disk.id.native
        (attachment,) = bench.manager.attachments()
        if is_restarted:
            bench.manager.close()
        bench.cloud.detach_by_hand(bench.harness.emulated_id(disk), NODE)
        _attach_by_hand(bench, attachment.plan)
        if isinstance(bench.cloud, Emulation):  # EC2 tells times to the second
            bench.cloud.volume(disk).attachments[0].since += timedelta(minutes=1)
        if is_restarted:
            bench.open()
        _end(bench, export.id)
        assert bench.harness.holders(disk) == [bench.harness.node_name]
        assert bench.harness.detaches() == 0


def _planned_and_killed(bench: CloudBench, disk: str) -> AttachPlan:
    """The service plans an attach of the disk, and ends before it makes it."""
    bench.manager.close()
    never = NeverAsks()
    bench.others = [("never", never)]
    manager = bench.open()
    manager.export(f"cloud:{disk}", Access.READ_ONLY, "alice")
    eventually(lambda: bool(never.plans))
    (record,) = manager.attachments()
    assert record.plan.proof == ""
    manager.close()
    return never.plans[0]


def _end(bench: CloudBench, export_id: str) -> None:
    bench.manager.release(export_id)
    eventually(lambda: not bench.manager.attachments())


def _attach_by_hand(bench: CloudBench, plan: AttachPlan) -> None:
    """As it was planned: read-only where the cloud can attach so."""
    disk = bench.harness.emulated_id(plan.disk.id.native)
    bench.cloud.attach_by_hand(disk, NODE, slot=plan.slot, read_only=plan.access is Access.READ_ONLY)
