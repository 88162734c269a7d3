"""The emulated EC2 filters and pages as EC2 does."""

import pytest

from cloudmanager.testing.cloud.ec2 import Emulation
from tests.providers.aws.clients import Client, refused


def ids(answer: dict[str, list[dict[str, str]]]) -> set[str]:
    return {volume["VolumeId"] for volume in answer["Volumes"]}


def named(name: str, *values: str) -> dict[str, object]:
    return {"Name": name, "Values": list(values)}


def test_an_unpaged_describe_answers_with_everything(cloud: Emulation, ec2: Client) -> None:
    made = {cloud.make_disk(f"evidence-{number}") for number in range(12)}
    answer = ec2.describe_volumes()
    assert (ids(answer), "NextToken" in answer) == (made, False)


def test_pages_together_have_every_volume_once(cloud: Emulation, ec2: Client) -> None:
    made = [cloud.make_disk(f"evidence-{number}") for number in range(12)]
    pages = list(ec2.get_paginator("describe_volumes").paginate(PaginationConfig={"PageSize": 5}))
    assert [len(page["Volumes"]) for page in pages] == [5, 5, 2]
    assert sorted(volume["VolumeId"] for page in pages for volume in page["Volumes"]) == sorted(made)


def test_a_page_may_be_smaller_than_was_asked_for(cloud: Emulation, ec2: Client) -> None:
    cloud.largest_page = 2
    made = {cloud.make_disk(f"evidence-{number}") for number in range(5)}
    pages = list(ec2.get_paginator("describe_volumes").paginate(PaginationConfig={"PageSize": 500}))
    assert [len(page["Volumes"]) for page in pages] == [2, 2, 1]
    assert set.union(*map(ids, pages)) == made


@pytest.mark.parametrize("size", [1, 4, 1001])
def test_a_page_size_out_of_bounds_is_refused(ec2: Client, size: int) -> None:
    code, message = refused(lambda: ec2.describe_volumes(MaxResults=size))
    assert (code, f"Value ( {size} ) for parameter maxResults is invalid" in message) == ("InvalidParameterValue", True)


def test_ids_and_a_page_size_exclude_each_other(cloud: Emulation, ec2: Client) -> None:
    disk = cloud.make_disk("evidence-7")
    assert refused(lambda: ec2.describe_volumes(VolumeIds=[disk], MaxResults=5)) == (
        "InvalidParameterCombination",
        "The parameter volumeSet cannot be used with the parameter maxResults",
    )


def test_an_invented_token_is_refused(ec2: Client) -> None:
    assert refused(lambda: ec2.describe_volumes(MaxResults=5, NextToken="later"))[0] == "InvalidPaginationToken"


def test_one_unknown_id_spoils_a_describe_of_several(cloud: Emulation, ec2: Client) -> None:
    disk = cloud.make_disk("evidence-7")
    code, _ = refused(lambda: ec2.describe_volumes(VolumeIds=[disk, "vol-0123456789abcdef0"]))
    assert code == "InvalidVolume.NotFound"


@pytest.mark.parametrize("bad", ["vol-1", "evidence-7", "vol-0123456789ABCDEF0"])
def test_a_malformed_id_is_refused(ec2: Client, bad: str) -> None:
    assert refused(lambda: ec2.describe_volumes(VolumeIds=[bad])) == (
        "InvalidParameterValue",
        f"Value ({bad}) for parameter volumeId is invalid. Expected: 'vol-...'.",
    )


def test_values_are_alternatives_and_filters_are_all_required(cloud: Emulation, ec2: Client) -> None:
    here = cloud.make_disk("a", labels={"case": "1"})
    there = cloud.make_disk("b", labels={"case": "1"}, location="us-east-1b")
    cloud.make_disk("c", labels={"case": "2"})
    zones = named("availability-zone", "us-east-1a", "us-east-1b")
    assert ids(ec2.describe_volumes(Filters=[zones, named("tag:case", "1")])) == {here, there}
    assert ids(ec2.describe_volumes(Filters=[zones, named("tag:case", "1"), named("tag:Name", "b")])) == {there}


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("evid*", True),
        ("evidence-?", True),
        ("*7", True),
        ("EVIDENCE-7", False),
        ("evid", False),
        (r"evidence\-7", True),
    ],
)
def test_wildcards_match_and_letter_case_counts(cloud: Emulation, ec2: Client, pattern: str, *, matches: bool) -> None:
    disk = cloud.make_disk("evidence-7")
    assert ids(ec2.describe_volumes(Filters=[named("tag:Name", pattern)])) == ({disk} if matches else set())


def test_a_backslash_takes_a_wildcards_meaning_away(cloud: Emulation, ec2: Client) -> None:
    cloud.make_disk("evidence-7")
    star = cloud.make_disk("evidence-*")
    assert ids(ec2.describe_volumes(Filters=[named("tag:Name", r"evidence-\*")])) == {star}


def test_an_unknown_filter_is_refused(ec2: Client) -> None:
    assert refused(lambda: ec2.describe_volumes(Filters=[named("colour", "red")])) == (
        "InvalidParameterValue",
        "The filter 'colour' is invalid",
    )


def test_volumes_are_found_by_the_instance_that_has_them(cloud: Emulation, ec2: Client) -> None:
    cloud.make_instance("worker-1")
    disk = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(disk, "worker-1", slot="/dev/xvdba")
    node = cloud.instance("worker-1").id
    volumes = ec2.describe_volumes(Filters=[named("attachment.instance-id", node)])["Volumes"]
    assert {volume["Attachments"][0]["Device"] for volume in volumes} == {"/dev/xvda", "/dev/xvdba"}


def test_instances_are_described_with_zone_type_and_mappings(cloud: Emulation, ec2: Client) -> None:
    cloud.make_instance("worker-1", location="us-east-1b", type_name="m7i.large")
    instance = ec2.describe_instances()["Reservations"][0]["Instances"][0]
    assert instance["Placement"]["AvailabilityZone"] == "us-east-1b"
    assert (instance["InstanceType"], instance["State"]["Name"]) == ("m7i.large", "running")
    assert instance["BlockDeviceMappings"][0]["Ebs"]["Status"] == "attached"


def test_instance_types_tell_hypervisor_and_limits(ec2: Client) -> None:
    kinds = ec2.describe_instance_types(InstanceTypes=["m4.large", "m7i.large"])["InstanceTypes"]
    assert [(kind["Hypervisor"], kind["EbsInfo"]["AttachmentLimitType"]) for kind in kinds] == [
        ("xen", "shared"),
        ("nitro", "dedicated"),
    ]


def test_zones_are_those_of_the_region_and_regions_are_all(ec2: Client) -> None:
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    assert [zone["ZoneName"] for zone in zones] == ["us-east-1a", "us-east-1b"]
    assert {region["RegionName"] for region in ec2.describe_regions()["Regions"]} >= {"us-east-1", "eu-west-1"}
