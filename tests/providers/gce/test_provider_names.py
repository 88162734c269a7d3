"""A name alone means the only disk that has it: never silently the one that is nearest."""

import pytest

from cloudmanager.core.errors import AccessDenied, AmbiguousDisk, CloudUnavailable, DiskNotFound
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.conformance.checks import describe
from tests.providers.gce.harness import GceHarness

HERE, THERE, REGION = "us-central1-b", "us-central1-a", "us-central1"


@pytest.fixture
def provider(harness: GceHarness) -> Provider:
    return harness.make_provider()


def test_a_name_that_several_zones_have_is_refused_with_the_candidates(harness: GceHarness, provider: Provider) -> None:
    for location in (HERE, THERE, REGION):
        harness.make_disk("evidence-7", location=location)
    with pytest.raises(AmbiguousDisk) as caught:
        describe(provider, "evidence-7")
    for location in (HERE, THERE, REGION):
        assert f"disks:{location}/evidence-7" in caught.value.detail
    assert not caught.value.retriable
    assert {describe(provider, f"{location}/evidence-7").location for location in (HERE, THERE, REGION)} == {
        HERE,
        THERE,
        REGION,
    }


@pytest.mark.parametrize("location", [HERE, THERE, REGION])
def test_the_only_disk_of_a_name_is_found_wherever_it_is(
    harness: GceHarness, provider: Provider, location: str
) -> None:
    harness.make_disk("evidence-7", location=location)
    harness.make_disk("evidence-70", location=THERE)
    disk = describe(provider, "evidence-7")
    assert (disk.location, disk.id.native) == (location, f"{location}/evidence-7")
    assert disk == describe(provider, f"{location}/evidence-7")


def test_a_name_is_looked_up_anew_each_time(harness: GceHarness, provider: Provider) -> None:
    harness.make_disk("evidence-7")
    assert describe(provider, "evidence-7").location == HERE
    harness.make_disk("evidence-7", location=THERE)
    with pytest.raises(AmbiguousDisk):
        describe(provider, "evidence-7")


def test_a_number_alone_is_enough(harness: GceHarness, provider: Provider) -> None:
    for location in (HERE, THERE):
        harness.make_disk("evidence-7", location=location)
    path = f"projects/acme-forensics/zones/{THERE}/disks/evidence-7"
    number = str(harness.cloud.state.disks[path].id)
    assert describe(provider, number).location == THERE


def test_one_call_is_made(harness: GceHarness, provider: Provider) -> None:
    harness.make_disk("evidence-7")
    provider.node()
    harness.calls.clear()
    describe(provider, "evidence-7")
    assert [call.operation for call in harness.calls] == ["disks.aggregatedList"]


def test_a_name_that_nobody_has_is_not_found(provider: Provider) -> None:
    with pytest.raises(DiskNotFound, match="nothing-here"):
        describe(provider, "nothing-here")


def test_without_the_right_to_list_a_name_alone_is_refused_and_the_way_is_said(
    harness: GceHarness, provider: Provider
) -> None:
    harness.make_disk("evidence-7")
    harness.cloud.granted = frozenset({"compute.disks.get"})
    with pytest.raises(AccessDenied, match=r"otherwise write disks:ZONE/evidence-7"):
        describe(provider, "evidence-7")
    assert describe(provider, f"{HERE}/evidence-7").location == HERE


def test_while_a_zone_does_not_answer_nobody_knows_whether_a_name_is_unique(
    harness: GceHarness, provider: Provider
) -> None:
    for location in (HERE, THERE):
        harness.make_disk("evidence-7", location=location)
    harness.cloud.unreachable.add(f"zones/{THERE}")
    with pytest.raises(CloudUnavailable, match=THERE) as caught:
        describe(provider, "evidence-7")
    assert caught.value.retriable
    harness.cloud.unreachable.clear()
    with pytest.raises(AmbiguousDisk):
        describe(provider, "evidence-7")
