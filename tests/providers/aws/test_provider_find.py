"""Listing volumes: every region in scope and every page, filtered by EC2 where it can."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloudmanager.core.errors import InvalidRequest
from cloudmanager.core.model import Disk, Query
from cloudmanager.core.plugins import Provider
from cloudmanager.providers.aws import api as aws_ec2
from cloudmanager.testing.cloud.ec2 import Emulation
from cloudmanager.testing.cloud.ec2.lifecycle import new_id
from tests.providers.aws.clients import actions, make_provider


def find(provider: Provider, query: Query | None = None) -> Iterator[Disk]:
    token = None
    while True:
        page = provider.find(query or Query(), token)
        yield from page.items
        token = page.next_page
        if token is None:
            return


def names(provider: Provider, query: Query) -> set[str]:
    return {disk.description for disk in find(provider, query)}


def test_every_region_in_scope_is_listed(cloud: Emulation, node: str, credentials: None) -> None:
    provider = make_provider(cloud, regions=["us-east-1", "eu-west-1"])
    for zone in ("us-east-1a", "us-east-1b", "eu-west-1a", "us-west-2a"):
        cloud.make_disk(zone, location=zone)
    assert {disk.location for disk in find(provider)} == {"us-east-1a", "us-east-1b", "eu-west-1a"}


def test_every_page_is_listed_once(cloud: Emulation, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_ec2, "_PAGE_SIZE", 5)
    made = {cloud.make_disk(f"evidence-{number}") for number in range(12)}
    found = [disk.id.native for disk in find(provider, Query(text="evidence"))]
    assert (set(found), len(found)) == (made, len(made))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (Query(text="EVID"), ["evidence-1", "Evidence*2"]),
        (Query(text="dence*"), ["Evidence*2"]),
        (Query(labels={"case": "42"}), ["evidence-1"]),
        (Query(labels={"case": "4*"}), ["Evidence*2"]),
        (Query(location="us-east-1b"), ["other"]),
        (Query(location="us-east-1", text="evidence"), ["evidence-1", "Evidence*2"]),
        (Query(location="eu-west-1a"), []),
        (Query(state="in-use", text="evi"), ["evidence-1"]),
    ],
    ids=str,
)
def test_queries_are_exact(cloud: Emulation, provider: Provider, query: Query, found: list[str]) -> None:
    one = cloud.make_disk("evidence-1", labels={"case": "42"})
    cloud.make_disk("Evidence*2", labels={"case": "4*"})
    cloud.make_disk("other", location="us-east-1b")
    cloud.attach_by_hand(one, "worker-1")
    assert names(provider, query) == set(found)


def test_a_volume_is_found_by_a_part_of_its_id(cloud: Emulation, provider: Provider) -> None:
    disk = cloud.make_disk("evidence-7")
    assert [found.id.native for found in find(provider, Query(text=disk[4:15].upper()))] == [disk]


def test_an_invented_page_is_refused(provider: Provider) -> None:
    with pytest.raises(InvalidRequest):
        provider.find(Query(), "mars-1/token")


def test_a_page_costs_one_call(cloud: Emulation, provider: Provider) -> None:
    provider.find(Query())
    assert actions(cloud) == ["DescribeVolumes"]


def test_ten_thousand_volumes_stream_with_flat_memory(cloud: Emulation, provider: Provider) -> None:
    template = cloud.volume(cloud.make_disk("evidence"))
    for _ in range(10_000):
        volume = replace(template, id=new_id("vol"), attachments=[])
        cloud.state.volumes[volume.id] = volume
    sizes, memory = [], []
    for size in find_pages(provider):
        sizes.append(size)
        memory.append(resident_bytes())
    assert sum(sizes) >= 10_000
    assert memory[-1] - memory[4] < 16 * 1024**2


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def find_pages(provider: Provider) -> Iterator[int]:
    token = None
    while True:
        page = provider.find(Query(), token)
        yield len(page.items)
        token = page.next_page
        if token is None:
            return
