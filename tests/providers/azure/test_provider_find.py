"""The Azure provider lists every disk, page by page."""

import base64
import gc
import json

import pytest

from cloudmanager.core.errors import InvalidRequest
from cloudmanager.core.model import Disk, Query
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.emulation import GROUP, OTHER_GROUP, OTHER_SUBSCRIPTION, SUBSCRIPTION
from cloudmanager.testing.cloud.azure.state import ManagedDisk, Place
from tests.providers.azure.clients import describe, disk_path, make_provider


def found(provider: Provider, query: Query | None = None) -> list[Disk]:
    disks: list[Disk] = []
    token = None
    while True:
        page = provider.find(query or Query(), token)
        disks += page.items
        token = page.next_page
        if token is None:
            return disks


def names(disks: list[Disk]) -> list[str]:
    return [disk.id.native.rpartition("/")[2] for disk in disks]


@pytest.fixture
def stocked(cloud: AzureEmulation) -> None:
    """Eleven disks in two groups, three to a page."""
    cloud.largest_page = 3
    for number in range(7):
        cloud.make_disk(f"evidence-{number}", size_bytes=512, labels={"case": str(number % 2)})
    for number in range(4):
        cloud.make_disk(f"{OTHER_GROUP}/old-{number}", size_bytes=512, location="westeurope-2")
    cloud.make_disk(f"/subscriptions/{OTHER_SUBSCRIPTION}{disk_path('foreign').split(SUBSCRIPTION)[1]}", size_bytes=512)


def test_the_whole_subscription_is_listed_page_by_page(
    cloud: AzureEmulation, stocked: None, provider: Provider
) -> None:
    listed = found(provider)
    assert sorted(names(listed)) == [*(f"evidence-{n}" for n in range(7)), *(f"old-{n}" for n in range(4))]
    assert [call.operation for call in cloud.calls].count("Disks_List") == 4


def test_what_is_listed_can_be_described(cloud: AzureEmulation, stocked: None, provider: Provider) -> None:
    for disk in found(provider):
        assert describe(provider, disk.id.native).canonical_id == disk.canonical_id


def test_resource_groups_can_be_named(cloud: AzureEmulation, stocked: None, identity: None) -> None:
    both = make_provider(cloud, find_in=[OTHER_GROUP.upper(), GROUP])
    assert names(found(both)) == [*(f"old-{n}" for n in range(4)), *(f"evidence-{n}" for n in range(7))]
    one = make_provider(cloud, find_in=[OTHER_GROUP])
    assert names(found(one)) == [f"old-{n}" for n in range(4)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(text="DENCE-3"), ["evidence-3"]),
        (Query(location="westeurope-2"), [f"old-{n}" for n in range(4)]),
        (Query(location="WestEurope", text="old-1"), ["old-1"]),
        (Query(location="northeurope"), []),
        (Query(labels={"case": "1"}), ["evidence-1", "evidence-3", "evidence-5"]),
        (Query(state="attached"), ["evidence-0"]),
    ],
)
def test_a_query_restricts(
    cloud: AzureEmulation, stocked: None, provider: Provider, query: Query, expected: list[str]
) -> None:
    cloud.attach_by_hand("evidence-0", "worker-2")
    assert names(found(provider, query)) == expected


def test_ten_thousand_disks_are_streamed_in_flat_memory(cloud: AzureEmulation, provider: Provider) -> None:
    cloud.largest_page = 1000
    for number in range(10_000):
        record = ManagedDisk(cloud.resource(f"disk-{number:05}", "disks"), Place("westeurope", "1"), 512)
        cloud.state.disks[record.id.key] = record
    count, token, most = 0, None, 0
    while True:
        page = provider.find(Query(), token)
        count, token = count + len(page.items), page.next_page
        most = max(most, sum(isinstance(it, Disk) for it in gc.get_objects()))
        if token is None:
            break
    assert count == 10_000
    assert most <= 2 * 1000


def token_of(scope: object, link: object) -> str:
    return base64.urlsafe_b64encode(json.dumps([scope, link]).encode()).decode()


@pytest.mark.parametrize(
    "token",
    [
        "",
        "nonsense",
        "é",
        base64.urlsafe_b64encode(b"{}").decode(),
        token_of(7, ""),
        token_of(-1, ""),
        token_of("0", ""),
        token_of(0, 3),
        token_of(0, "https://evil.example/steal"),
        token_of(0, "@evil.example/steal"),
        token_of(0, "//evil.example" + disk_path("")),
        token_of(0, disk_path("evidence-7")),
        token_of(
            0, f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/virtualMachines?api-version=2026-04-01"
        ),
    ],
)
def test_a_token_from_elsewhere_is_refused_and_leads_nowhere(
    cloud: AzureEmulation, provider: Provider, token: str
) -> None:
    provider.node()
    cloud.calls.clear()
    with pytest.raises(InvalidRequest, match="page token"):
        provider.find(Query(), token)
    assert not [call for call in cloud.calls if not call.operation.startswith("metadata")]
