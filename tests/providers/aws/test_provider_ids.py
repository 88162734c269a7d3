"""However a volume is spelled, it is one disk; what is no volume is refused without a call."""

import pytest

from cloudmanager.core.errors import DiskNotFound, InvalidDiskId
from cloudmanager.core.model import Access
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.ec2 import HOME_ACCOUNT, Emulation
from tests.providers.aws.clients import actions, describe, make_provider


def test_every_spelling_is_one_disk(cloud: Emulation, provider: Provider) -> None:
    disk = cloud.make_disk("evidence-7")
    arn = f"arn:aws:ec2:us-east-1:{HOME_ACCOUNT}:volume/{disk}"
    spellings = [disk, disk.upper(), f"us-east-1/{disk}", f"US-EAST-1/{disk}", arn, arn.upper()]
    assert {describe(provider, spelling).canonical_id for spelling in spellings} == {f"aws://us-east-1/{disk}"}
    assert {str(describe(provider, spelling).id) for spelling in spellings} == {f"aws:{disk}"}


@pytest.mark.parametrize(
    "bad",
    [
        *("vol-", "vol-1", "vol-0123456789abcdefg", "vol-0123456789abcdef01", "0123456789abcdef0", "evidence-7", "*"),
        *("snap-0123456789abcdef0", "us-east-1a/vol-0123456789abcdef0", "/vol-0123456789abcdef0"),
        "arn:aws:ec2:us-east-1:111122223333:snapshot/vol-0123456789abcdef0",
        "arn:aws:s3:us-east-1:111122223333:volume/vol-0123456789abcdef0",
        "vol-0123456789abcdef0\n",
        "vol-０123456789abcdef0",  # noqa: RUF001 - a digit that only looks like one
    ],
)
def test_what_is_no_volume_is_refused_without_a_call(cloud: Emulation, provider: Provider, bad: str) -> None:
    with pytest.raises(InvalidDiskId, match=r"does not name a volume|control characters"):
        describe(provider, bad)
    assert actions(cloud) == []


def test_an_unknown_volume_is_not_found_with_ec2s_code(provider: Provider) -> None:
    with pytest.raises(DiskNotFound) as caught:
        describe(provider, "vol-0123456789abcdef0")
    assert caught.value.cloud_code == "InvalidVolume.NotFound"


def test_a_volume_without_a_region_is_looked_for_in_every_region_in_scope(
    cloud: Emulation, node: str, credentials: None
) -> None:
    provider = make_provider(cloud, regions=["eu-west-1", "us-east-1"])
    there = cloud.make_disk("there", location="eu-west-1a")
    found = describe(provider, there)
    assert (str(found.id), found.location) == (f"aws:eu-west-1/{there}", "eu-west-1a")
    assert describe(provider, str(found.id).partition(":")[2]) == found


def test_a_region_out_of_scope_is_not_asked(cloud: Emulation, provider: Provider) -> None:
    there = cloud.make_disk("there", location="eu-west-1a")
    with pytest.raises(DiskNotFound, match="add that to this provider's regions"):
        describe(provider, f"eu-west-1/{there}")
    assert actions(cloud) == []


def test_a_volume_is_described_with_its_facts(cloud: Emulation, provider: Provider, node: str) -> None:
    cloud.make_instance("worker-2")
    volume = cloud.make_disk("evidence-7", labels={"case": "42"}, size_bytes=3 * 1024**3)
    cloud.attach_by_hand(volume, "worker-2")
    disk = describe(provider, volume)
    assert (disk.size_bytes, disk.format, disk.location, disk.description) == (
        3 * 1024**3,
        "raw",
        "us-east-1a",
        "evidence-7",
    )
    assert disk.labels == {"Name": "evidence-7", "case": "42"}
    assert disk.held_by == (cloud.instance("worker-2").id,)
    assert disk.created_at is not None


def test_this_machine_is_not_among_the_holders(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(volume, "worker-1")
    assert describe(provider, volume).held_by == ()


def test_a_deleted_volume_that_ec2_still_shows_is_not_found(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    cloud.volume(volume).state = type(cloud.volume(volume).state).DELETING
    with pytest.raises(DiskNotFound, match="deleted"):
        describe(provider, volume)


def test_the_boot_volume_is_known_and_never_offered_read_write(cloud: Emulation, provider: Provider) -> None:
    (root,) = (attachment.volume_id for attachment in cloud.state.attachments(cloud.instance("worker-1").id))
    disk = describe(provider, root)
    assert (disk.is_boot, disk.is_attached, disk.access) == (True, True, frozenset(Access) - {Access.READ_WRITE})
    other = cloud.make_disk("evidence-7")
    assert (describe(provider, other).is_attached, describe(provider, other).is_boot) == (False, False)
    cloud.attach_by_hand(other, "worker-1")
    found = describe(provider, other)
    assert (found.is_attached, found.is_boot, Access.READ_WRITE in found.access) == (True, False, True)
