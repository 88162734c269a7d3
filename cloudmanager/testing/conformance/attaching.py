"""Checks of attaching."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from cloudmanager.core.errors import (
    AccessConflict,
    AttachLimit,
    CloudManagerError,
    DiskInUse,
    ForeignAttachment,
    NameClash,
)
from cloudmanager.core.model import CONFIRMED, Access, Attachment, AttachPlan, Device
from cloudmanager.core.plugins import Provider
from cloudmanager.linux import block
from cloudmanager.testing.conformance.checks import (
    SLACK_SECONDS,
    Checks,
    an_error,
    assert_attached_here,
    assert_free,
    assert_is,
    attach,
    commit,
    describe,
    plan,
)
from cloudmanager.testing.conformance.harness import ErrorCase, Harness, Trouble

_THREADS = 4


class AttachingChecks(Checks):
    """3 to 7, 13 to 17, 21 and 27 of the list."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "error_case" in metafunc.fixturenames:
            cases = self.harness_type.error_cases
            metafunc.parametrize("error_case", cases, ids=[case.name.replace(" ", "-") for case in cases])

    def test_attaching_again_gives_the_same_answer_and_changes_nothing(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        done = attach(provider, native)
        harness.calls.clear()
        again = [provider.attach(done.plan), harness.make_provider().attach(done.plan)]
        assert [replace(each, proof=done.plan.proof) for each in again] == [done.attachment] * 2
        assert harness.calls.mutations() == []
        assert_is(provider.locate(done.disk), harness, native)

    def test_attached_in_another_mode_is_a_conflict(self, harness: Harness) -> None:
        """And nothing is done about it."""
        provider, native = harness.make_provider(), harness.make_disk()
        attach(provider, native, Access.READ_ONLY)
        harness.calls.clear()
        with pytest.raises(AccessConflict):
            attach(provider, native, Access.READ_WRITE)
        assert harness.calls.mutations() == []

    def test_attached_elsewhere_names_the_holder_and_detaches_nothing(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        holder = harness.attach_elsewhere(native)
        harness.calls.clear()
        with pytest.raises(DiskInUse) as caught:
            attach(provider, native)
        assert caught.value.holder == holder
        assert harness.detaches() == 0
        assert describe(provider, native).held_by == (holder,)
        assert_free(harness, native)

    def test_at_the_limit_an_attach_fails_and_a_freed_slot_suffices(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        harness.fill_slots()
        with pytest.raises(AttachLimit):
            attach(provider, native)
        harness.free_slot()
        done = attach(provider, native)
        assert_is(provider.locate(done.disk), harness, native)

    def test_every_error_of_the_cloud_has_its_class(self, harness: Harness, error_case: ErrorCase) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        made = plan(provider, native)
        with an_error() as caught:
            _meet(harness, provider, made, native, error_case)
        error = caught.value
        assert type(error) is error_case.error
        assert error.retriable is error_case.retriable
        assert error_case.cloud_code in (None, error.cloud_code)
        assert error.retry_after == error_case.retry_after

    def test_an_attach_that_takes_its_time_is_waited_for(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        harness.inject(Trouble.ATTACH_IS_SLOW)
        done = attach(provider, native)
        assert_is(provider.locate(done.disk), harness, native)

    def test_an_attach_that_hangs_is_an_error_within_its_bound(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        harness.inject(Trouble.ATTACH_HANGS)
        started = time.monotonic()
        with an_error() as caught:
            attach(provider, native)
        assert caught.value.retriable
        assert time.monotonic() - started < harness.table()["attach_timeout_seconds"] + SLACK_SECONDS

    def test_an_attach_that_describe_contradicts_is_an_error(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        harness.inject(Trouble.ATTACH_LIES)
        with an_error():
            attach(provider, native)

    def test_a_stale_description_gives_no_false_success(self, harness: Harness) -> None:
        """Reads lag behind: neither attach nor detach may be reported before they show it."""
        provider, native = harness.make_provider(), harness.make_disk()
        made = plan(provider, native)
        harness.inject(Trouble.DESCRIBE_IS_STALE)
        with an_error():
            provider.attach(made)
        harness.recover()
        attachment = replace(provider.attach(made), proof=CONFIRMED)
        harness.inject(Trouble.DESCRIBE_IS_STALE)
        with an_error():
            provider.detach(attachment)
        harness.recover()
        provider.detach(attachment)
        assert_free(harness, native)

    def test_one_disk_attached_by_several_threads_is_attached_once(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        made = plan(provider, native)
        harness.calls.clear()
        answers = _together(provider, [made] * _THREADS)
        assert len(set(map(repr, answers))) == 1
        assert len(harness.calls.mutations()) == 1

    def test_several_disks_attached_at_once_do_not_meet(self, harness: Harness) -> None:
        provider = harness.make_provider()
        natives = [harness.make_disk() for _ in range(_THREADS)]
        with ThreadPoolExecutor(_THREADS) as pool:
            plans = list(pool.map(lambda native: plan(provider, native), natives))
        assert len({made.slot for made in plans}) == _THREADS
        _together(provider, plans)
        for made, native in zip(plans, natives, strict=True):
            assert_is(provider.locate(made.disk), harness, native)

    def test_a_slot_that_is_taken_by_a_stranger_is_left_to_it(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        made = plan(provider, native)
        harness.occupy(made.slot)
        with pytest.raises(NameClash):
            provider.attach(made)
        done = attach(provider, native)
        assert done.plan.slot != made.slot
        assert_is(provider.locate(done.disk), harness, native)

    def test_a_read_only_attachment_is_read_only_or_says_that_it_is_not(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        done = attach(provider, native, Access.READ_ONLY)
        expected = Access.READ_ONLY if harness.supports_read_only_attach else Access.READ_WRITE
        assert (done.plan.access, done.attachment.access) == (expected, expected)
        device = provider.locate(done.disk)
        assert isinstance(device, Device)
        assert _is_read_only(device) or expected is Access.READ_WRITE

    def test_a_shared_disk_is_attached_beside_others(self, harness: Harness) -> None:
        if not harness.supports_sharing:
            pytest.skip("declared: the cloud shares no disks")
        provider, native = harness.make_provider(), harness.make_disk(is_shared=True)
        harness.attach_elsewhere(native)
        done = attach(provider, native)
        assert_is(provider.locate(done.disk), harness, native)

    def test_an_attach_that_was_planned_by_a_process_that_died_is_ours(self, harness: Harness) -> None:
        native = harness.make_disk()
        made = plan(harness.make_provider(), native)
        attachment = harness.make_provider().attach(made)
        assert (attachment.slot, attachment.request_id) == (made.slot, made.request_id)

    def test_what_was_attached_by_hand_after_the_plan_is_foreign_and_stays(self, harness: Harness) -> None:
        native = harness.make_disk()
        made = plan(harness.make_provider(), native)
        harness.attach_by_hand(native)
        provider = harness.make_provider()
        assert provider.attach(made).request_id == ""
        provider.detach(replace(made.attachment(), proof=CONFIRMED))
        assert_attached_here(harness, native)

    def test_what_was_attached_by_hand_at_the_very_slot_of_the_plan_is_foreign_and_stays(
        self, harness: Harness
    ) -> None:
        """The same place proves nothing: somebody may have chosen it by chance, or have read the plan."""
        native = harness.make_disk()
        made = plan(harness.make_provider(), native)
        harness.attach_by_hand(native, slot=made.slot)
        provider = harness.make_provider()
        done = provider.attach(made)
        assert (done.slot, done.request_id) == (made.slot, "")
        assert done.reason, "it is not said why the disk is not taken for ours"
        with pytest.raises(ForeignAttachment):
            provider.detach(made.attachment())
        assert_attached_here(harness, native)

    def test_a_request_that_came_too_late_proves_nothing(self, harness: Harness) -> None:
        """It was refused, because somebody attached the disk at the very slot a moment earlier."""
        provider, native = harness.make_provider(), harness.make_disk()
        made = plan(provider, native)
        committed = commit(harness, made)
        harness.inject(Trouble.DESCRIBE_IS_STALE)
        harness.attach_by_hand(native, slot=made.slot)
        with suppress(CloudManagerError):
            assert committed.attach(provider).request_id == ""
        harness.recover()
        with suppress(NameClash):
            assert committed.attach(harness.make_provider()).request_id == ""
        with pytest.raises(ForeignAttachment):
            harness.make_provider().detach(committed.ours)
        assert_attached_here(harness, native)

    def test_what_is_attached_before_the_plan_is_noted_as_present(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        assert not plan(provider, native).is_present
        harness.attach_by_hand(native)
        assert plan(provider, native).is_present


def _meet(harness: Harness, provider: Provider, made: AttachPlan, native: str, case: ErrorCase) -> None:
    """Calls the hook that meets the case's error."""
    if case.hook == "describe":
        case.arrange(harness, native)
        describe(provider, native)
    elif case.hook == "attach":
        case.arrange(harness, native)
        provider.attach(made)
    else:
        attachment = provider.attach(made)
        case.arrange(harness, native)
        provider.detach(replace(attachment, proof=CONFIRMED))


def _together(provider: Provider, plans: Sequence[AttachPlan]) -> list[Attachment]:
    with ThreadPoolExecutor(len(plans)) as pool:
        return list(pool.map(provider.attach, plans))


def _is_read_only(device: Device) -> bool:
    descriptor = os.open(device.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return block.is_read_only(descriptor)
    finally:
        os.close(descriptor)
