"""Checks of locating: the right device, or an error; never the wrong one."""

import time

import pytest

from cloudmanager.core.errors import DeviceError, DeviceNotReady
from cloudmanager.core.model import Device, NotAttached
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.conformance.checks import SLACK_SECONDS, Checks, an_error, assert_is, attach, describe
from cloudmanager.testing.conformance.harness import Harness, Trouble

_LINK_TROUBLES = (
    Trouble.LINK_MISSING,
    Trouble.LINK_STALE,
    Trouble.LINK_SWAPPED,
    Trouble.LINK_TO_PARTITION,
    Trouble.LINK_TO_CONTROLLER,
)


class LocatingChecks(Checks):
    """18 to 20 of the list, and that unknown is not absent."""

    @pytest.mark.parametrize("trouble", _LINK_TROUBLES, ids=lambda trouble: trouble.name.lower())
    def test_a_link_that_is_wrong_misleads_nobody(self, harness: Harness, trouble: Trouble) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        attach(provider, harness.make_disk())
        harness.inject(trouble)
        done = attach(provider, native)
        try:
            device = provider.locate(done.disk)
        except DeviceError:
            return
        assert_is(device, harness, native)

    def test_a_device_that_does_not_say_who_it_is_is_not_used(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        harness.inject(Trouble.IDENTITY_UNREADABLE)
        done = attach(provider, native)
        with pytest.raises(DeviceError):
            provider.locate(done.disk)

    def test_a_device_that_says_it_is_another_is_not_used(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        harness.inject(Trouble.IDENTITY_WRONG)
        done = attach(provider, native)
        with pytest.raises(DeviceError):
            provider.locate(done.disk)

    def test_a_device_that_appears_late_is_waited_for(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        harness.inject(Trouble.DEVICE_IS_LATE)
        done = attach(provider, native)
        assert_is(provider.locate(done.disk), harness, native)

    def test_a_device_that_does_not_appear_is_not_ready(self, harness: Harness) -> None:
        """An error within its bound, and not the answer that the disk is not attached."""
        provider, native = harness.make_provider(), harness.make_disk()
        harness.inject(Trouble.DEVICE_IS_MISSING)
        done = attach(provider, native)
        started = time.monotonic()
        with pytest.raises(DeviceNotReady) as caught:
            provider.locate(done.disk)
        assert caught.value.retriable
        assert time.monotonic() - started < harness.table()["device_timeout_seconds"] + SLACK_SECONDS
        harness.recover()
        assert_is(provider.locate(done.disk), harness, native)

    def test_a_disk_that_is_not_attached_is_said_to_be_so(self, harness: Harness) -> None:
        provider = harness.make_provider()
        assert isinstance(provider.locate(describe(provider, harness.make_disk())), NotAttached)

    def test_a_cloud_that_cannot_be_asked_is_no_proof_of_absence(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        disk = describe(provider, native)
        harness.inject(Trouble.READS_FAIL)
        with an_error():
            provider.locate(disk)

    def test_locating_changes_nothing(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        done = attach(provider, native)
        harness.calls.clear()
        provider.locate(done.disk)
        assert harness.calls.mutations() == []

    def test_looking_at_all_disks_agrees_with_locating_each(self, harness: Harness) -> None:
        provider = _looker(harness)
        disks = [attach(provider, harness.make_disk()).disk for _ in range(3)]
        assert provider.locate_all(disks) == {disk.id: provider.locate(disk) for disk in disks}

    def test_looking_at_all_disks_costs_no_more_calls_than_looking_at_one(self, harness: Harness) -> None:
        provider = _looker(harness)
        disks = [attach(provider, harness.make_disk()).disk for _ in range(3)]
        harness.calls.clear()
        provider.locate_all(disks[:1])
        for_one = len(harness.calls)
        harness.calls.clear()
        provider.locate_all(disks)
        assert len(harness.calls) <= for_one
        assert harness.calls.mutations() == []

    def test_a_disk_that_was_detached_by_hand_is_not_said_to_be_there(self, harness: Harness) -> None:
        """Also while its device stays: the cloud may have given the disk to another machine by then."""
        provider = _looker(harness)
        gone, other = (attach(provider, harness.make_disk()).disk for _ in range(2))
        harness.inject(Trouble.DEVICE_STAYS)
        harness.detach_by_hand(gone.id.native)
        located = provider.locate_all([gone, other])
        assert not isinstance(located.get(gone.id), Device)
        assert isinstance(located[other.id], Device)

    def test_looking_at_all_disks_says_so_when_the_cloud_cannot_be_asked(self, harness: Harness) -> None:
        provider = _looker(harness)
        disk = attach(provider, harness.make_disk()).disk
        harness.inject(Trouble.READS_FAIL)
        with an_error():
            provider.locate_all([disk])


def _looker(harness: Harness) -> Provider:
    provider = harness.make_provider()
    if not provider.can_locate_all:
        pytest.skip("declared not to apply: the provider does not implement locate_all")
    return provider
