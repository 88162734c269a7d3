"""Check 28: a name that is used again is another disk."""

from contextlib import suppress

import pytest

from cloudmanager.core.errors import DiskReplaced
from cloudmanager.core.model import Device, NotAttached
from cloudmanager.testing.conformance.checks import (
    Checks,
    assert_attached_here,
    assert_free,
    assert_is,
    attach,
    describe,
    plan,
)
from cloudmanager.testing.conformance.harness import Harness


class ReplacingChecks(Checks):
    """What was claimed is one disk, and not whatever has its name."""

    def test_a_name_that_is_used_again_is_another_disk(self, harness: Harness) -> None:
        native = harness.make_disk()
        first = describe(harness.make_provider(), native)
        assert first.incarnation
        assert describe(harness.make_provider(), native).incarnation == first.incarnation
        harness.replace_disk(native)
        assert describe(harness.make_provider(), native).incarnation != first.incarnation

    def test_a_disk_that_was_replaced_gets_no_plan(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        made = plan(provider, native)
        harness.replace_disk(native)
        with pytest.raises(DiskReplaced):
            provider.plan_attach(made.disk, made.access)

    def test_a_disk_that_was_replaced_after_the_plan_is_not_attached(self, harness: Harness) -> None:
        native = harness.make_disk()
        made = plan(harness.make_provider(), native)
        harness.replace_disk(native)
        with pytest.raises(DiskReplaced):
            harness.make_provider().attach(made)
        assert_free(harness, native)

    def test_a_disk_that_is_replaced_while_it_is_attached_is_released(self, harness: Harness) -> None:
        """The very process that made the plan need not look again before it attaches, but afterwards."""
        provider, native = harness.make_provider(), harness.make_disk()
        made = plan(provider, native)
        harness.replace_disk(native)
        with pytest.raises(DiskReplaced):
            provider.attach(made)
        assert_free(harness, native)

    def test_the_device_of_another_disk_with_the_name_is_not_the_disk_s(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        attached = attach(provider, native)
        assert_is(provider.locate(attached.disk), harness, native)
        harness.replace_disk(native)
        harness.attach_by_hand(native)
        for asked in (provider, harness.make_provider()):
            with suppress(DiskReplaced):
                assert isinstance(asked.locate(attached.disk), NotAttached)
            known = asked.locate_all([attached.disk]).get(attached.disk.id)
            is_told_apart = isinstance(known, Device) and known.incarnation not in ("", attached.disk.incarnation)
            assert is_told_apart or not isinstance(known, Device)

    def test_another_disk_with_the_name_is_not_detached(self, harness: Harness) -> None:
        provider, native = harness.make_provider(), harness.make_disk()
        attached = attach(provider, native)
        harness.replace_disk(native)
        harness.attach_by_hand(native)
        provider.detach(attached.attachment)
        assert_attached_here(harness, native)
