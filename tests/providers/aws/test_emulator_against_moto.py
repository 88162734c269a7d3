"""moto as second oracle, where moto is right: both emulators give the same answers to the same calls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from cloudmanager.testing.cloud.ec2 import Emulation
from tests.providers.aws.clients import Client, make_client

Scenario = Callable[[Client], object]
ZONE = "us-east-1a"


@contextmanager
def motos() -> Iterator[Callable[[str], Client]]:
    """Makes clients that moto answers. It answers every client while it is in force."""
    secret = "anything"
    with mock_aws(config={"core": {"mock_credentials": True}}):
        yield boto3.Session("moto", secret, region_name="us-east-1").client


def code_of(call: Callable[[], object]) -> str:
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "no error"


def missing_volume(ec2: Client) -> object:
    return code_of(lambda: ec2.describe_volumes(VolumeIds=["vol-0123456789abcdef0"]))


def missing_instance(ec2: Client) -> object:
    disk = ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeId"]
    return code_of(lambda: ec2.attach_volume(VolumeId=disk, InstanceId="i-0123456789abcdef0", Device="/dev/sdf"))


def missing_snapshot(ec2: Client) -> object:
    return code_of(lambda: ec2.describe_snapshots(SnapshotIds=["snap-0123456789abcdef0"]))


def dry_runs(ec2: Client) -> object:
    disk = ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeId"]
    return [
        code_of(lambda: ec2.create_volume(AvailabilityZone=ZONE, Size=1, DryRun=True)),
        code_of(lambda: ec2.create_snapshot(VolumeId=disk, DryRun=True)),
        code_of(lambda: ec2.delete_volume(VolumeId=disk, DryRun=True)),
    ]


def a_volumes_life(ec2: Client) -> object:
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "Name", "Value": "evidence-7"}]}]
    disk = ec2.create_volume(AvailabilityZone=ZONE, Size=2, VolumeType="gp3", TagSpecifications=tags)["VolumeId"]
    volume = ec2.describe_volumes(VolumeIds=[disk])["Volumes"][0]
    ec2.delete_volume(VolumeId=disk)
    seen = {name: volume[name] for name in ("Size", "State", "VolumeType", "AvailabilityZone", "Attachments", "Tags")}
    return seen, code_of(lambda: ec2.describe_volumes(VolumeIds=[disk]))


def a_snapshots_life(ec2: Client) -> object:
    disk = ec2.create_volume(AvailabilityZone=ZONE, Size=2)["VolumeId"]
    snapshot = ec2.create_snapshot(VolumeId=disk, Description="before")["SnapshotId"]
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[snapshot])
    seen = ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
    copy = ec2.create_volume(AvailabilityZone=ZONE, SnapshotId=snapshot)
    ec2.delete_snapshot(SnapshotId=snapshot)
    gone = code_of(lambda: ec2.delete_snapshot(SnapshotId=snapshot))
    return seen["VolumeSize"], seen["State"], seen["Progress"], seen["Description"], copy["Size"], gone


def a_filtered_describe(ec2: Client) -> object:
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "case", "Value": "forty two"}]}]
    ec2.create_volume(AvailabilityZone=ZONE, Size=7, TagSpecifications=tags)
    filters = [{"Name": "tag:case", "Values": ["forty*"]}, {"Name": "size", "Values": ["7"]}]
    return [volume["Size"] for volume in ec2.describe_volumes(Filters=filters)["Volumes"]]


QUICK: list[Scenario] = [missing_volume, a_volumes_life, a_filtered_describe]
OTHERS: list[Scenario] = [missing_instance, missing_snapshot, dry_runs, a_snapshots_life]


@pytest.mark.parametrize(
    "scenario",
    [*QUICK, *(pytest.param(scenario, marks=pytest.mark.slow) for scenario in OTHERS)],
    ids=lambda scenario: scenario.__name__,
)
def test_both_emulators_agree(cloud: Emulation, scenario: Scenario) -> None:
    ours = scenario(make_client(cloud))
    with motos() as moto:
        assert scenario(moto("ec2")) == ours


def test_both_name_the_caller_in_the_same_words(cloud: Emulation) -> None:
    def known(answer: dict[str, Any]) -> set[str]:
        return {name for name in answer if name != "ResponseMetadata"}

    ours = known(make_client(cloud, "sts").get_caller_identity())
    with motos() as moto:
        assert known(moto("sts").get_caller_identity()) == ours
