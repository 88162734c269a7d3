"""The emulated EC2 makes volumes and snapshots with real bytes."""

from pathlib import Path

import pytest

from cloudmanager.testing.cloud.ec2 import Emulation
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.aws.clients import Client, refused

TAGS = [{"ResourceType": "snapshot", "Tags": [{"Key": "Name", "Value": "copy-1"}]}]


def write(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.write(content)


def test_a_volume_is_creating_and_then_available(slow_cloud: Emulation, slow_ec2: Client) -> None:
    made = slow_ec2.create_volume(AvailabilityZone="us-east-1a", Size=3, VolumeType="gp3")
    assert made["State"] == "creating"
    slow_cloud.timeline.advance(1)
    volume = slow_cloud.volume(made["VolumeId"])
    assert (volume.state, volume.backing.stat().st_size) == ("available", 3 * 1024**3)


def test_a_volume_takes_no_space(cloud: Emulation) -> None:
    assert cloud.backing(cloud.make_disk("big", size_bytes=10 * 1024**4)).stat().st_blocks == 0


def test_a_client_token_makes_one_volume_and_fits_one_request(cloud: Emulation, ec2: Client) -> None:
    request = {"AvailabilityZone": "us-east-1a", "Size": 1, "ClientToken": "once"}
    assert ec2.create_volume(**request)["VolumeId"] == ec2.create_volume(**request)["VolumeId"]
    assert refused(lambda: ec2.create_volume(**{**request, "Size": 2}))[0] == "IdempotentParameterMismatch"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"Size": 1}, "MissingParameter"),
        ({"AvailabilityZone": "us-east-1a"}, "MissingParameter"),
        ({"AvailabilityZone": "us-east-1z", "Size": 1}, "InvalidZone.NotFound"),
        ({"AvailabilityZone": "us-east-1a", "Size": 1, "VolumeType": "st1"}, "InvalidParameterValue"),
        ({"AvailabilityZone": "us-east-1a", "Size": 4, "VolumeType": "io2"}, "MissingParameter"),
        ({"AvailabilityZone": "us-east-1a", "Size": 4, "Iops": 100}, "InvalidParameterCombination"),
    ],
)
def test_a_volume_that_ec2_cannot_make_is_refused(ec2: Client, request_: dict[str, object], code: str) -> None:
    assert refused(lambda: ec2.create_volume(**request_))[0] == code


def test_a_snapshot_has_the_bytes_of_its_moment_and_a_volume_from_it_too(cloud: Emulation, ec2: Client) -> None:
    source = cloud.make_disk("evidence-7")
    write(cloud.backing(source), b"before")
    snapshot = ec2.create_snapshot(VolumeId=source, TagSpecifications=TAGS)["SnapshotId"]
    write(cloud.backing(source), b"after!")
    copy = ec2.create_volume(AvailabilityZone="us-east-1b", SnapshotId=snapshot)["VolumeId"]
    with cloud.backing(copy).open("rb") as file:
        assert file.read(6) == b"before"


def test_a_snapshot_is_pending_and_then_completed(slow_cloud: Emulation, slow_ec2: Client) -> None:
    snapshot = slow_ec2.create_snapshot(VolumeId=slow_cloud.make_disk(""))["SnapshotId"]
    make = lambda: slow_ec2.create_volume(AvailabilityZone="us-east-1a", SnapshotId=snapshot)  # noqa: E731
    assert refused(make)[0] == "IncorrectState"
    slow_cloud.timeline.advance(5)
    described = slow_ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
    assert (described["State"], described["Progress"]) == ("completed", "100%")


def test_a_snapshot_can_fail(cloud: Emulation, ec2: Client) -> None:
    cloud.faults.add(Fault("CreateSnapshot", Effect.FAIL))
    snapshot = ec2.create_snapshot(VolumeId=cloud.make_disk(""))["SnapshotId"]
    assert ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "error"


def test_a_snapshot_is_found_by_owner_and_tag(cloud: Emulation, ec2: Client) -> None:
    disk = cloud.make_disk("")
    ec2.create_snapshot(VolumeId=disk)
    wanted = ec2.create_snapshot(VolumeId=disk, TagSpecifications=TAGS)["SnapshotId"]
    found = ec2.describe_snapshots(OwnerIds=["self"], Filters=[{"Name": "tag:Name", "Values": ["copy-1"]}])
    assert [item["SnapshotId"] for item in found["Snapshots"]] == [wanted]


def test_a_tag_for_another_kind_of_resource_is_refused(cloud: Emulation, ec2: Client) -> None:
    wrong = [{"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "b"}]}]
    assert refused(lambda: ec2.create_snapshot(VolumeId=cloud.make_disk(""), TagSpecifications=wrong))[0] == (
        "InvalidParameterValue"
    )


def test_tags_need_their_own_permission_also_in_the_making(cloud: Emulation, ec2: Client) -> None:
    cloud.denied.add("CreateTags")
    disk = cloud.make_disk("")
    ec2.create_snapshot(VolumeId=disk)
    code, message = refused(lambda: ec2.create_snapshot(VolumeId=disk, TagSpecifications=TAGS))
    assert (code, "ec2:CreateTags" in message) == ("UnauthorizedOperation", True)


def test_tags_can_be_added_later(cloud: Emulation, ec2: Client) -> None:
    disk = cloud.make_disk("evidence-7")
    ec2.create_tags(Resources=[disk], Tags=[{"Key": "case", "Value": "42"}])
    assert cloud.volume(disk).tags == {"Name": "evidence-7", "case": "42"}


def test_an_attached_volume_cannot_be_deleted(cloud: Emulation, ec2: Client) -> None:
    cloud.make_instance("worker-1")
    disk = cloud.make_disk("")
    cloud.attach_by_hand(disk, "worker-1")
    assert refused(lambda: ec2.delete_volume(VolumeId=disk)) == (
        "VolumeInUse",
        f"Volume {disk} is currently attached to {cloud.instance('worker-1').id}",
    )


def test_what_was_deleted_is_not_found(cloud: Emulation, ec2: Client) -> None:
    disk = cloud.make_disk("")
    snapshot = ec2.create_snapshot(VolumeId=disk)["SnapshotId"]
    ec2.delete_snapshot(SnapshotId=snapshot)
    ec2.delete_volume(VolumeId=disk)
    assert refused(lambda: ec2.delete_volume(VolumeId=disk))[0] == "InvalidVolume.NotFound"
    assert refused(lambda: ec2.delete_snapshot(SnapshotId=snapshot))[0] == "InvalidSnapshot.NotFound"
