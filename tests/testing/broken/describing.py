"""Providers with one defect each in describing."""

import logging
import os
from dataclasses import replace
from pathlib import Path

from cloudmanager.core.errors import (
    ConfigurationError,
    DiskNotFound,
)
from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.core.model import (
    Disk,
    DiskId,
    Node,
    Page,
    Query,
)
from tests.testing.broken.provider import Broken, failing


@failing("test_malformed_ids_are_refused_without_asking_the_cloud")
class AsksAboutAnyId(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        self._parts().instance.look()
        return super().describe(disk_id)


@failing("test_malformed_ids_are_refused_without_asking_the_cloud")
class FindsNoneForAnyId(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        raise DiskNotFound(f"There is no {disk_id}.")


@failing("test_an_unknown_disk_is_not_found", "test_what_was_made_is_deleted_and_nothing_else")
class InventsDisks(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        try:
            return super().describe(disk_id)
        except DiskNotFound:
            return Disk(disk_id, "gce://invented", 0)


@failing("test_every_spelling_of_a_disk_has_one_canonical_id")
class BelievesSpellings(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        return replace(super().describe(disk_id), canonical_id=f"gce://{disk_id.native}")


@failing("test_two_providers_of_one_account_give_a_disk_one_canonical_id")
class NamesItselfInIds(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        return replace(super().describe(disk_id), canonical_id=str(disk_id))


@failing("test_different_disks_have_different_canonical_ids")
class KnowsBareNamesOnly(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        disk = super().describe(disk_id)
        return replace(disk, canonical_id=disk.canonical_id.rpartition("/")[2])


@failing("test_listing_finds_every_location_and_page")
class ListsOnePage(Broken):
    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        return replace(super().find(query, page_token), next_page=None)


@failing("test_listing_finds_every_location_and_page")
class ListsItsZone(Broken):
    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        return super().find(replace(query, location=self.node().location), page_token)


@failing("test_listing_restricts_by_name_and_location")
class IgnoresQueries(Broken):
    @hookimpl
    def find(self, page_token: str | None) -> Page[Disk]:  # type: ignore[override] # pluggy's way
        return super().find(Query(), page_token)


@failing("test_a_listed_disk_is_described_alike")
class ListsHalf(Broken):
    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        page = super().find(query, page_token)
        return replace(page, items=tuple(replace(disk, size_bytes=0) for disk in page.items))


@failing(
    "test_a_metadata_server_that_fails_ends_the_start_with_what_was_tried[metadata_absent]",
    "test_a_metadata_server_that_fails_ends_the_start_with_what_was_tried[metadata_slow]",
    "test_a_metadata_server_that_fails_ends_the_start_with_what_was_tried[metadata_refusing]",
)
class GuessesWhereItIs(Broken):
    @hookimpl
    def node(self) -> Node:
        try:
            return super().node()
        except ConfigurationError:
            return Node("localhost")


@failing("test_no_secret_is_logged_or_shown")
class LogsItsCredentials(Broken):
    @hookimpl
    def node(self) -> Node:
        logging.getLogger("broken").debug(Path(os.environ["GOOGLE_APPLICATION_CREDENTIALS"]).read_text())
        return super().node()
