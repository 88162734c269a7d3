"""The emulated EC2 attaches and detaches as EC2 does, and refuses what EC2 refuses (and moto does not)."""

import os
from pathlib import Path

import pytest

from cloudmanager.testing.cloud.ec2 import Emulation
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.aws.clients import Client, refused

NAME = "/dev/xvdba"


def state_of(cloud: Emulation, disk: str) -> str:
    attachments = cloud.volume(disk).attachments
    return attachments[0].state.value if attachments else cloud.volume(disk).state.value


@pytest.fixture
def slow_node(slow_cloud: Emulation) -> str:
    slow_cloud.make_instance("worker-1")
    return slow_cloud.instance("worker-1").id


def test_an_attach_is_attaching_until_its_time_has_come(
    slow_cloud: Emulation, slow_ec2: Client, slow_node: str
) -> None:
    disk = slow_cloud.make_disk("evidence-7")
    answer = slow_ec2.attach_volume(VolumeId=disk, InstanceId=slow_node, Device=NAME)
    assert (answer["State"], answer["Device"], answer["InstanceId"]) == ("attaching", NAME, slow_node)
    volume = slow_ec2.describe_volumes(VolumeIds=[disk])["Volumes"][0]
    assert (volume["State"], volume["Attachments"][0]["State"]) == ("in-use", "attaching")
    slow_cloud.timeline.advance(2)
    assert state_of(slow_cloud, disk) == "attached"


def test_a_detach_goes_on_until_its_time_has_come(slow_cloud: Emulation, slow_ec2: Client, slow_node: str) -> None:
    disk = slow_cloud.make_disk("evidence-7")
    slow_cloud.attach_by_hand(disk, "worker-1", slot=NAME)
    assert slow_ec2.detach_volume(VolumeId=disk, InstanceId=slow_node)["State"] == "detaching"
    assert state_of(slow_cloud, disk) == "detaching"
    slow_cloud.timeline.advance(2)
    assert state_of(slow_cloud, disk) == "available"


def test_attaching_twice_is_volume_in_use(cloud: Emulation, ec2: Client, node: str) -> None:
    disk = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(disk, "worker-1")
    again = refused(lambda: ec2.attach_volume(VolumeId=disk, InstanceId=node, Device=NAME))
    assert again == ("VolumeInUse", f"{disk} is already attached to an instance")


def test_attaching_to_a_second_instance_does_not_steal_the_volume(cloud: Emulation, ec2: Client, node: str) -> None:
    cloud.make_instance("worker-2")
    disk = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(disk, "worker-2")
    assert refused(lambda: ec2.attach_volume(VolumeId=disk, InstanceId=node, Device=NAME))[0] == "VolumeInUse"
    assert cloud.holders(disk) == ["worker-2"]


def test_attaching_across_zones_is_a_zone_mismatch(cloud: Emulation, ec2: Client, node: str) -> None:
    disk = cloud.make_disk("evidence-7", location="us-east-1b")
    assert refused(lambda: ec2.attach_volume(VolumeId=disk, InstanceId=node, Device=NAME)) == (
        "InvalidVolume.ZoneMismatch",
        f"The volume '{disk}' is not in the same availability zone as instance '{node}'",
    )


def test_a_used_device_name_is_refused_with_ec2s_words(cloud: Emulation, ec2: Client, node: str) -> None:
    cloud.attach_by_hand(cloud.make_disk(""), "worker-1", slot="/dev/sdf")
    disk = cloud.make_disk("evidence-7")
    assert refused(lambda: ec2.attach_volume(VolumeId=disk, InstanceId=node, Device="/dev/sdf")) == (
        "InvalidParameterValue",
        "Invalid value '/dev/sdf' for unixDevice. Attachment point /dev/sdf is already in use",
    )


def test_a_name_that_the_image_maps_is_taken_though_no_api_shows_it(cloud: Emulation, ec2: Client) -> None:
    cloud.make_instance("worker-3", ami_devices=["/dev/xvdca"])
    node = cloud.instance("worker-3").id
    described = ec2.describe_instances(InstanceIds=[node])["Reservations"][0]["Instances"][0]
    assert [item["DeviceName"] for item in described["BlockDeviceMappings"]] == ["/dev/xvda"]
    code, message = refused(
        lambda: ec2.attach_volume(VolumeId=cloud.make_disk(""), InstanceId=node, Device="/dev/xvdca")
    )
    assert (code, "already in use" in message) == ("InvalidParameterValue", True)


@pytest.mark.parametrize("device", ["/dev/sdf1", "/dev/xvdaz", "/dev/xvdea", "/dev/nvme1n1", "evidence"])
def test_a_bad_device_name_is_refused(cloud: Emulation, ec2: Client, node: str, device: str) -> None:
    disk = cloud.make_disk("evidence-7")
    assert refused(lambda: ec2.attach_volume(VolumeId=disk, InstanceId=node, Device=device)) == (
        "InvalidParameterValue",
        f"Value ({device}) for parameter device is invalid. {device} is not a valid EBS device name.",
    )


def test_a_terminated_instance_gets_no_volume_and_frees_those_it_had(cloud: Emulation, ec2: Client, node: str) -> None:
    disk = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(disk, "worker-1")
    cloud.terminate_instance("worker-1")
    assert state_of(cloud, disk) == "available"
    code, message = refused(lambda: ec2.attach_volume(VolumeId=disk, InstanceId=node, Device=NAME))
    assert (code, message) == ("IncorrectState", f"Instance '{node}' is not 'running'.")


def test_a_volume_in_the_making_cannot_be_attached(slow_cloud: Emulation, slow_ec2: Client, slow_node: str) -> None:
    disk = slow_ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    assert refused(lambda: slow_ec2.attach_volume(VolumeId=disk, InstanceId=slow_node, Device=NAME)) == (
        "IncorrectState",
        f"{disk} is not 'available'.",
    )


def test_what_does_not_exist_is_not_found(cloud: Emulation, ec2: Client, node: str) -> None:
    missing, disk = "vol-0123456789abcdef0", cloud.make_disk("")
    assert refused(lambda: ec2.attach_volume(VolumeId=missing, InstanceId=node, Device=NAME)) == (
        "InvalidVolume.NotFound",
        f"The volume '{missing}' does not exist.",
    )
    nobody = "i-0123456789abcdef0"
    assert refused(lambda: ec2.attach_volume(VolumeId=disk, InstanceId=nobody, Device=NAME)) == (
        "InvalidInstanceID.NotFound",
        f"The instance ID '{nobody}' does not exist",
    )


def test_a_detach_of_an_available_volume_is_an_incorrect_state(cloud: Emulation, ec2: Client, node: str) -> None:
    disk = cloud.make_disk("evidence-7")
    assert refused(lambda: ec2.detach_volume(VolumeId=disk, InstanceId=node)) == (
        "IncorrectState",
        f"Volume '{disk}' is in the 'available' state.",
    )


def test_a_detach_from_an_instance_that_does_not_have_it_is_not_found(cloud: Emulation, ec2: Client, node: str) -> None:
    cloud.make_instance("worker-2")
    disk = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(disk, "worker-2")
    assert refused(lambda: ec2.detach_volume(VolumeId=disk, InstanceId=node))[0] == "InvalidAttachment.NotFound"
    assert cloud.holders(disk) == ["worker-2"]


def test_a_detach_without_an_instance_works_for_the_only_attachment(cloud: Emulation, ec2: Client, node: str) -> None:
    disk = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(disk, "worker-1")
    assert ec2.detach_volume(VolumeId=disk)["InstanceId"] == node
    assert cloud.holders(disk) == []


def test_the_root_volume_of_a_running_instance_stays(cloud: Emulation, ec2: Client, node: str) -> None:
    root = cloud.state.attachments(node)[0].volume_id
    assert refused(lambda: ec2.detach_volume(VolumeId=root, InstanceId=node))[0] == "OperationNotPermitted"


def test_a_shared_limit_counts_network_interfaces_and_instance_stores(cloud: Emulation, ec2: Client) -> None:
    cloud.make_instance("worker-3", type_name="m5d.4xlarge", network_interfaces=2)
    assert cloud.instance("worker-3").volume_limit == 28 - 2 - 2


@pytest.mark.parametrize(("type_name", "limit"), [("m5.large", 27), ("m7i.large", 32), ("m4.large", 39)])
def test_the_attachment_limit_is_that_of_the_instance_type(
    cloud: Emulation, ec2: Client, monkeypatch: pytest.MonkeyPatch, type_name: str, limit: int
) -> None:
    cloud.make_instance("worker-3", type_name=type_name)
    monkeypatch.setattr(cloud.guests["worker-3"], "plug", lambda *_: None)  # the limit is the API's, not the guest's
    node = cloud.instance("worker-3").id
    for number in range(limit - 1):
        device = f"/dev/xvd{'bc'[number // 24]}{chr(ord('a') + number % 24)}"
        ec2.attach_volume(VolumeId=cloud.make_disk(""), InstanceId=node, Device=device)
    code, message = refused(
        lambda: ec2.attach_volume(VolumeId=cloud.make_disk(""), InstanceId=node, Device="/dev/xvdda")
    )
    assert (code, f"up to {limit} devices" in message) == ("AttachmentLimitExceeded", True)


def test_a_multi_attach_volume_can_have_several_instances_and_loses_only_the_named_one(
    cloud: Emulation, ec2: Client, node: str
) -> None:
    cloud.make_instance("worker-2")
    disk = cloud.make_disk("shared", is_shared=True)
    for name in ("worker-1", "worker-2"):
        ec2.attach_volume(VolumeId=disk, InstanceId=cloud.instance(name).id, Device=NAME)
    assert refused(lambda: ec2.detach_volume(VolumeId=disk))[0] == "MissingParameter"
    ec2.detach_volume(VolumeId=disk, InstanceId=node)
    assert cloud.holders(disk) == ["worker-2"]


def test_multi_attach_needs_nitro(cloud: Emulation, ec2: Client) -> None:
    cloud.make_instance("worker-3", type_name="m4.large")
    disk = cloud.make_disk("shared", is_shared=True)
    attach = lambda: ec2.attach_volume(VolumeId=disk, InstanceId=cloud.instance("worker-3").id, Device=NAME)  # noqa: E731
    assert refused(attach)[0] == "UnsupportedOperation"


def test_multi_attach_is_for_io1_and_io2_only(ec2: Client) -> None:
    code, _ = refused(
        lambda: ec2.create_volume(AvailabilityZone="us-east-1a", Size=4, VolumeType="gp3", MultiAttachEnabled=True)
    )
    assert code == "InvalidParameterCombination"


def test_a_held_device_makes_the_detach_busy_until_it_is_let_go(cloud: Emulation, ec2: Client, node: str) -> None:
    disk = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(disk, "worker-1")
    held = os.open(cloud.guests["worker-1"].plugged[disk].node, os.O_RDONLY | os.O_EXCL)
    try:
        ec2.detach_volume(VolumeId=disk, InstanceId=node)
        assert state_of(cloud, disk) == "busy"
    finally:
        os.close(held)
    cloud.timeline.advance(1)
    assert state_of(cloud, disk) == "available"


def test_a_forced_detach_does_not_wait_for_a_held_device(cloud: Emulation, ec2: Client, node: str) -> None:
    disk = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(disk, "worker-1")
    held = os.open(cloud.guests["worker-1"].plugged[disk].node, os.O_RDONLY | os.O_EXCL)
    try:
        ec2.detach_volume(VolumeId=disk, InstanceId=node, Force=True)
        assert state_of(cloud, disk) == "available"
        assert cloud.guests["worker-1"].surprises == [disk]
    finally:
        os.close(held)


def test_an_attach_can_hang_and_a_detach_ends_it(cloud: Emulation, ec2: Client, node: str) -> None:
    cloud.faults.add(Fault("AttachVolume", Effect.HANG))
    disk = cloud.make_disk("evidence-7")
    ec2.attach_volume(VolumeId=disk, InstanceId=node, Device=NAME)
    assert state_of(cloud, disk) == "attaching"
    ec2.detach_volume(VolumeId=disk, InstanceId=node)
    cloud.timeline.release()
    assert state_of(cloud, disk) == "available"
    assert disk not in cloud.guests["worker-1"].plugged


def test_an_attach_can_lie(cloud: Emulation, ec2: Client, node: str) -> None:
    cloud.faults.add(Fault("AttachVolume", Effect.LIE))
    disk = cloud.make_disk("evidence-7")
    assert ec2.attach_volume(VolumeId=disk, InstanceId=node, Device=NAME)["State"] == "attaching"
    assert state_of(cloud, disk) == "available"


def test_an_attach_can_fail_after_it_was_accepted(cloud: Emulation, ec2: Client, node: str) -> None:
    cloud.faults.add(Fault("AttachVolume", Effect.FAIL))
    disk = cloud.make_disk("evidence-7")
    ec2.attach_volume(VolumeId=disk, InstanceId=node, Device=NAME)
    assert state_of(cloud, disk) == "available"


def test_describe_instances_can_be_stale_while_describe_volumes_is_not(
    cloud: Emulation, ec2: Client, node: str
) -> None:
    disk = cloud.make_disk("evidence-7")
    cloud.faults.add(Fault("DescribeInstances", Effect.STALE, times=0))
    ec2.attach_volume(VolumeId=disk, InstanceId=node, Device=NAME)
    instance = ec2.describe_instances(InstanceIds=[node])["Reservations"][0]["Instances"][0]
    assert [item["DeviceName"] for item in instance["BlockDeviceMappings"]] == ["/dev/xvda"]
    assert ec2.describe_volumes(VolumeIds=[disk])["Volumes"][0]["Attachments"][0]["State"] == "attached"


def test_a_nitro_guest_shows_an_nvme_device_with_the_volume_as_serial(cloud: Emulation, node: str) -> None:
    disk = cloud.make_disk("evidence-7")
    with cloud.backing(disk).open("r+b") as file:
        file.write(b"the bytes")
    cloud.attach_by_hand(disk, "worker-1")
    guest = cloud.guests["worker-1"]
    plugged = guest.plugged[disk]
    assert plugged.name == "nvme1n1"
    serial = (guest.sys / "class/nvme/nvme1/serial").read_text().strip()
    assert serial == disk.replace("-", "")
    assert (guest.sys / "class/nvme/nvme1/device/vendor").read_text().strip() == "0x1d0f"
    link = guest.dev / f"disk/by-id/nvme-Amazon_Elastic_Block_Store_{serial}"
    assert link.resolve() == plugged.node
    with plugged.node.open("rb") as node_file:
        assert node_file.read(9) == b"the bytes"


@pytest.mark.parametrize(
    ("device", "name", "number"),
    [
        ("/dev/xvdf", "xvdf", 51792),
        ("/dev/sdp", "xvdp", 51952),
        ("/dev/xvdq", "xvdq", 268439552),
        ("/dev/xvdba", "xvdba", 268448768),
    ],
)
def test_a_xen_guest_shows_the_device_by_its_name_only(cloud: Emulation, device: str, name: str, number: int) -> None:
    cloud.make_instance("worker-3", type_name="m4.large")
    disk = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(disk, "worker-3", slot=device)
    guest = cloud.guests["worker-3"]
    assert guest.plugged[disk].name == name
    assert Path(guest.sys / "block" / name / "device").resolve().name == f"vbd-{number}"
    assert list((guest.dev / "disk/by-id").iterdir()) == []


def test_sdf_and_xvdf_are_one_name_on_xen(cloud: Emulation, ec2: Client) -> None:
    cloud.make_instance("worker-3", type_name="m4.large")
    cloud.attach_by_hand(cloud.make_disk(""), "worker-3", slot="/dev/sdf")
    attach = lambda: ec2.attach_volume(  # noqa: E731
        VolumeId=cloud.make_disk(""), InstanceId=cloud.instance("worker-3").id, Device="/dev/xvdf"
    )
    assert "already in use" in refused(attach)[1]


def test_a_stopped_instance_has_its_volumes_and_no_devices_until_it_runs(cloud: Emulation, node: str) -> None:
    disk = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(disk, "worker-1")
    cloud.stop_instance("worker-1")
    assert (cloud.holders(disk), dict(cloud.guests["worker-1"].plugged)) == (["worker-1"], {})
    cloud.start_instance("worker-1")
    assert disk in cloud.guests["worker-1"].plugged
