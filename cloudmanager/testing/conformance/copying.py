"""Checks of the optional capabilities: a provider that offers them must do them."""

import pytest

from cloudmanager.core.errors import DiskNotFound, InvalidRequest
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.conformance.checks import Checks, assert_is, attach, describe
from cloudmanager.testing.conformance.harness import Harness


class CopyingChecks(Checks):
    """25 of the list."""

    def test_declared_capabilities_are_those_that_are_offered(self, harness: Harness) -> None:
        assert harness.make_provider().capabilities == harness.capabilities

    def test_a_disk_that_is_held_elsewhere_is_copied_and_the_copy_attached(self, harness: Harness) -> None:
        provider, native = _copying(harness), harness.make_disk()
        harness.attach_elsewhere(native)
        snapshot = provider.snapshot(describe(provider, native), "case-7-evidence")
        copy = provider.restore(snapshot, "case-7-copy")
        done = attach(provider, copy.id.native)
        assert_is(provider.locate(done.disk), harness, native)

    def test_a_copy_is_made_once(self, harness: Harness) -> None:
        provider = _copying(harness)
        disk = describe(provider, harness.make_disk())
        snapshots = [provider.snapshot(disk, "twice") for _ in range(2)]
        copies = [provider.restore(snapshots[0], "twice") for _ in range(2)]
        assert snapshots[0] == snapshots[1]
        assert copies[0].canonical_id == copies[1].canonical_id

    def test_what_was_made_is_deleted_and_nothing_else(self, harness: Harness) -> None:
        provider, native = _copying(harness), harness.make_disk()
        original = describe(provider, native)
        snapshot = provider.snapshot(original, "short-lived")
        copy = provider.restore(snapshot, "short-lived")
        for _ in range(2):
            provider.delete(copy)
            provider.delete(snapshot)
        with pytest.raises(DiskNotFound):
            provider.describe(copy.id)
        with pytest.raises(InvalidRequest):
            provider.delete(original)
        assert describe(provider, native) == original


def _copying(harness: Harness) -> Provider:
    provider = harness.make_provider()
    if provider.capabilities != {"snapshot", "restore", "delete"}:
        pytest.skip("declared: the provider makes no copies")
    return provider
