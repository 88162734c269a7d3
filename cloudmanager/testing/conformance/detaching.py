"""Checks of detaching, and of attaches and detaches that were cut short."""

import time
from collections.abc import Callable

import pytest

from cloudmanager.core.errors import CloudManagerError, NameClash
from cloudmanager.core.model import NotAttached
from cloudmanager.testing.conformance.checks import (
    SLACK_SECONDS,
    Attached,
    Checks,
    an_error,
    assert_attached_here,
    assert_free,
    assert_is,
    attach,
    commit,
    plan,
)
from cloudmanager.testing.conformance.harness import Harness, Trouble


class DetachingChecks(Checks):
    """8 to 11, 14 and 15 of the list."""

    def test_detaching_again_succeeds(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        done = attach(provider, native)
        provider.detach(done.attachment)
        assert_free(harness, native)
        harness.calls.clear()
        provider.detach(done.attachment)
        harness.make_provider().detach(done.attachment)
        assert harness.calls.mutations() == []
        assert isinstance(provider.locate(done.disk), NotAttached)

    def test_detaching_what_was_never_attached_succeeds(self, harness: Harness) -> None:
        provider = harness.make_provider()
        made = plan(provider, harness.make_disk())
        harness.calls.clear()
        provider.detach(made.attachment())
        assert harness.calls.mutations() == []

    def test_detaching_a_disk_that_is_gone_succeeds(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        done = attach(provider, native)
        harness.delete_disk(native)
        provider.detach(done.attachment)

    def test_detaching_from_a_machine_that_is_gone_succeeds(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        done = attach(provider, native)
        harness.delete_node()
        provider.detach(done.attachment)

    def test_detaching_touches_this_machine_only(self, harness: Harness) -> None:
        if not harness.supports_sharing:
            pytest.skip("declared: the cloud shares no disks")
        provider, native = harness.make_provider(), harness.make_disk(is_shared=True)
        harness.attach_elsewhere(native)
        elsewhere = set(harness.holders(native))
        done = attach(provider, native)
        provider.detach(done.attachment)
        assert set(harness.holders(native)) == elsewhere

    def test_a_detach_that_takes_its_time_is_waited_for(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        done = attach(provider, native)
        harness.inject(Trouble.DETACH_IS_SLOW)
        provider.detach(done.attachment)
        assert_free(harness, native)

    def test_a_detach_that_hangs_is_an_error_within_its_bound(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        done = attach(provider, native)
        harness.inject(Trouble.DETACH_HANGS)
        started = time.monotonic()
        with an_error() as caught:
            provider.detach(done.attachment)
        assert caught.value.retriable
        assert time.monotonic() - started < harness.table()["detach_timeout_seconds"] + SLACK_SECONDS

    def test_a_detach_that_describe_contradicts_is_an_error(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        done = attach(provider, native)
        harness.inject(Trouble.DETACH_LIES)
        with an_error():
            provider.detach(done.attachment)

    def test_a_detach_after_an_attach_that_timed_out_leaves_nothing(self, harness: Harness) -> None:
        """Not even when that attach is carried out in between."""
        provider, native = harness.make_provider(), harness.make_disk()
        committed = commit(harness, plan(provider, native))
        harness.inject(Trouble.ATTACH_HANGS)
        with an_error():
            committed.attach(provider)
        says_gone = _says_done(lambda: harness.make_provider().detach(committed.ours))
        harness.recover()
        if says_gone:
            assert_free(harness, native)
        harness.make_provider().detach(committed.ours)
        assert_free(harness, native)

    def test_an_attach_after_a_detach_that_timed_out_is_not_undone_by_it(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        done = attach(provider, native)
        harness.inject(Trouble.DETACH_HANGS)
        with an_error():
            provider.detach(done.attachment)
        says_attached = _says_done(lambda: harness.make_provider().attach(done.plan))
        harness.recover()
        if not says_attached:
            done = _attached_at_last(harness, done)
        assert_attached_here(harness, native)
        assert_is(harness.make_provider().locate(done.disk), harness, native)


def _says_done(action: Callable[[], object]) -> bool:
    """Whether it succeeds; "not now" is an answer too, any other error is not."""
    try:
        action()
    except CloudManagerError as error:
        if not error.retriable:
            raise  # it would end the trying, and an operation is still pending
        return False
    return True


def _attached_at_last(harness: Harness, done: Attached) -> Attached:
    """A plan whose slot is spent is made anew, as the core does."""
    provider = harness.make_provider()
    try:
        return Attached(done.disk, done.plan, provider.attach(done.plan))
    except NameClash:
        return attach(provider, done.disk.id.native)
