"""The Compute Engine provider lists disks page by page, and lets Google choose where Google can."""

import gc
from collections.abc import Iterator

import pytest
from google.cloud import compute_v1

from cloudmanager.core.model import Disk, Query
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.gce import state
from cloudmanager.testing.cloud.gce.emulation import HOME, PROJECT
from tests.providers.gce.harness import GceHarness


def fill(harness: GceHarness, count: int) -> None:
    """Disks that are only listed: without bytes."""
    cloud = harness.cloud.state
    for number in range(count):
        disk = state.Disk(PROJECT, f"zones/{HOME}", f"bulk-{number:05}", cloud.new_id(), 1)
        cloud.disks[disk.path] = disk


def pages(provider: Provider, query: Query) -> Iterator[tuple[Disk, ...]]:
    page = provider.find(query, None)
    yield page.items
    while page.next_page is not None:
        page = provider.find(query, page.next_page)
        yield page.items


def names(provider: Provider, query: Query) -> list[str]:
    return [disk.id.native.rpartition("/")[2] for page in pages(provider, query) for disk in page]


def disks_in_memory() -> int:
    """Ours and the SDK's."""
    gc.collect()
    return sum(type(found) in (Disk, compute_v1.Disk) for found in gc.get_objects())


def test_ten_thousand_disks_stream_and_no_more_than_a_page_is_kept(harness: GceHarness) -> None:
    fill(harness, 10_000)
    provider, seen, most = harness.make_provider(), 0, 0
    page_token: str | None = None
    while True:
        page = provider.find(Query(), page_token)
        seen += len(page.items)
        page_token = page.next_page
        del page
        if seen % 2_000 < 500:
            most = max(most, disks_in_memory())
        if page_token is None:
            break
    assert seen == 10_000 + 2
    assert most < 500


@pytest.fixture
def provider(harness: GceHarness) -> Provider:
    for number, case in enumerate(("7", "7", "8"), 1):
        harness.cloud.make_disk(f"evidence-{number}", labels={"case": case})
    harness.cloud.make_disk("evidence-4", location="us-central1-a", labels={"case": "7"})
    harness.cloud.make_disk("evidence-5", location="us-central1")
    return harness.make_provider()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (Query(text="DENCE-3"), ["evidence-3"]),
        (Query(labels={"case": "7"}), ["evidence-1", "evidence-2", "evidence-4"]),
        (Query(labels={"case": "7"}, text="2"), ["evidence-2"]),
        (Query(labels={"case": "7"}, location="us-central1-a"), ["evidence-4"]),
        (Query(location="us-central1"), ["evidence-5"]),
        (Query(state="ready", text="evidence-5"), ["evidence-5"]),
        (Query(state="CREATING"), []),
        (Query(location="moon-1a"), []),
    ],
)
def test_a_query_restricts(provider: Provider, query: Query, found: list[str]) -> None:
    assert sorted(names(provider, query)) == found


@pytest.mark.parametrize(
    "query",
    [
        Query(text='x" OR name eq ".*'),
        Query(text=".*"),
        Query(labels={"case": '7") (name != "x'}),
        Query(labels={"case = 7) (a": "b"}),
        Query(state="READY) (name = x"),
        Query(location="us-central1-b/disks/x?filter="),
    ],
)
def test_what_no_disk_can_have_is_answered_without_asking(
    harness: GceHarness, provider: Provider, query: Query
) -> None:
    provider.node()
    harness.calls.clear()
    assert names(provider, query) == []
    assert len(harness.calls) == 0


def test_google_does_the_choosing(harness: GceHarness, provider: Provider) -> None:
    """One page of what matches, not all pages of what there is."""
    fill(harness, 1_200)
    harness.calls.clear()
    assert names(provider, Query(text="evidence-3")) == ["evidence-3"]
    assert names(provider, Query(labels={"case": "8"}, state="READY")) == ["evidence-3"]
    assert len(harness.calls) == 2
