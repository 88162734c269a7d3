"""Checks of what a provider says of disks and of itself."""

import time

import pytest

from cloudmanager.core.errors import ConfigurationError, DiskNotFound, InvalidDiskId
from cloudmanager.core.model import Disk, DiskId, Query
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.conformance.checks import (
    SLACK_SECONDS,
    Checks,
    an_error,
    attach,
    describe,
    everything_logged,
)
from cloudmanager.testing.conformance.harness import Harness, Trouble

_METADATA_TROUBLES = (Trouble.METADATA_ABSENT, Trouble.METADATA_SLOW, Trouble.METADATA_REFUSING)


class DescribingChecks(Checks):
    """1, 2, 22, 23, 24 and 26 of the list."""

    def test_malformed_ids_are_refused_without_asking_the_cloud(self, harness: Harness) -> None:
        provider = harness.make_provider()
        provider.node()
        harness.calls.clear()
        for native in ("", *harness.malformed_ids):
            with pytest.raises(InvalidDiskId):
                provider.describe(DiskId(provider.name, native))
        assert list(harness.calls) == []

    def test_an_unknown_disk_is_not_found(self, harness: Harness) -> None:
        provider = harness.make_provider()
        with pytest.raises(DiskNotFound):
            describe(provider, harness.missing_disk())

    def test_every_spelling_of_a_disk_has_one_canonical_id(self, harness: Harness) -> None:
        provider = harness.make_provider()
        native = harness.make_disk()
        wanted = describe(provider, native).canonical_id
        found = {spelling: describe(provider, spelling).canonical_id for spelling in harness.spellings(native)}
        assert found == dict.fromkeys(found, wanted)

    def test_different_disks_have_different_canonical_ids(self, harness: Harness) -> None:
        """Also those of one name in several locations."""
        provider = harness.make_provider()
        natives = [harness.make_disk("twin"), harness.make_disk()]
        natives += [harness.make_disk("twin", location=location) for location in harness.other_locations()]
        assert len({describe(provider, native).canonical_id for native in natives}) == len(natives)

    def test_two_providers_of_one_account_give_a_disk_one_canonical_id(self, harness: Harness) -> None:
        native = harness.make_disk()
        found = {describe(harness.make_provider(name), native).canonical_id for name in ("one", "other")}
        assert len(found) == 1

    def test_listing_finds_every_location_and_page(self, harness: Harness) -> None:
        harness.make_pages_small()
        made = [harness.make_disk() for _ in range(5)]
        made += [harness.make_disk(location=location) for location in harness.other_locations()]
        provider = harness.make_provider()
        listed = [disk.canonical_id for disk in _all(provider, Query())]
        assert {describe(provider, native).canonical_id for native in made} <= set(listed)
        assert len(listed) == len(set(listed)), "a disk is listed twice"

    def test_listing_restricts_by_name_and_location(self, harness: Harness) -> None:
        wanted = harness.make_disk("needle-in-hay")
        harness.make_disk("straw")
        provider = harness.make_provider()
        by_name = _all(provider, Query(text="NEEDLE"))
        assert [disk.canonical_id for disk in by_name] == [describe(provider, wanted).canonical_id]
        for location in harness.other_locations():
            native = harness.make_disk(location=location)
            found = [disk.canonical_id for disk in _all(provider, Query(location=location))]
            assert found == [describe(provider, native).canonical_id]

    def test_a_listed_disk_is_described_alike(self, harness: Harness) -> None:
        harness.make_disk()
        provider = harness.make_provider()
        for listed in _all(provider, Query()):
            assert provider.describe(listed.id) == listed

    @pytest.mark.parametrize("trouble", _METADATA_TROUBLES, ids=lambda trouble: trouble.name.lower())
    def test_a_metadata_server_that_fails_ends_the_start_with_what_was_tried(
        self, harness: Harness, trouble: Trouble
    ) -> None:
        harness.inject(trouble)
        started = time.monotonic()
        with pytest.raises(ConfigurationError) as caught:
            harness.make_provider().node()
        assert time.monotonic() - started < SLACK_SECONDS
        assert "://" in caught.value.detail, "the error does not say what was tried"

    def test_no_secret_is_logged_or_shown(self, harness: Harness) -> None:
        with everything_logged() as lines:
            provider = harness.make_provider()
            provider.node()
            done = attach(provider, harness.make_disk())
            provider.locate(done.disk)
            provider.detach(done.attachment)
            harness.inject(Trouble.READS_FAIL)
            with an_error() as caught:
                describe(provider, done.disk.id.native)
        shown = [*lines, repr(caught.value), repr(vars(caught.value)), repr(provider), repr(done)]
        leaked = [line for line in shown for secret in harness.secrets if secret in line]
        assert leaked == []


def _all(provider: Provider, query: Query) -> list[Disk]:
    page = provider.find(query, None)
    disks = list(page.items)
    while page.next_page is not None:
        page = provider.find(query, page.next_page)
        disks += page.items
    return disks
