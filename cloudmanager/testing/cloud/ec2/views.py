"""Resources as the members of EC2's answers."""

from collections.abc import Mapping

from cloudmanager.testing.cloud.ec2.instance_types import Hypervisor, InstanceType
from cloudmanager.testing.cloud.ec2.schema import Members
from cloudmanager.testing.cloud.ec2.state import Attachment, Instance, InstanceState, Snapshot, State, Volume

ROOT_DEVICE = "/dev/xvda"
_STATE_CODES = {InstanceState.RUNNING: 16, InstanceState.TERMINATED: 48, InstanceState.STOPPED: 80}


def volume(item: Volume) -> Members:
    return {
        "VolumeId": item.id,
        "AvailabilityZone": item.zone,
        "CreateTime": item.created,
        "Size": item.size_gib,
        "State": item.state.value,
        "VolumeType": item.type,
        "SnapshotId": item.snapshot_id,
        "Encrypted": item.is_encrypted,
        "MultiAttachEnabled": item.is_multi_attach,
        "Iops": item.iops,
        "Attachments": [attachment(one) for one in item.attachments],
        "Tags": tags(item.tags),
    }


def attachment(item: Attachment) -> Members:
    return {
        "VolumeId": item.volume_id,
        "InstanceId": item.instance_id,
        "Device": item.device,
        "State": item.state.value,
        "AttachTime": item.since,
        "DeleteOnTermination": item.delete_on_termination,
        "EbsCardIndex": item.card,
    }


def instance(item: Instance, state: State) -> Members:
    """With the mappings of `state`, which may be older than the truth."""
    return {
        "InstanceId": item.id,
        "InstanceType": item.type.name,
        "State": {"Code": _STATE_CODES[item.state], "Name": item.state.value},
        "Placement": {"AvailabilityZone": item.zone, "Tenancy": "default"},
        "PrivateIpAddress": item.private_ip,
        "PrivateDnsName": f"ip-{item.private_ip.replace('.', '-')}.ec2.internal",
        "Hypervisor": "xen",  # EC2 says so of every instance, Nitro or not
        "VirtualizationType": "hvm",
        "RootDeviceName": ROOT_DEVICE,
        "RootDeviceType": "ebs",
        "LaunchTime": item.launched,
        "BlockDeviceMappings": [_mapping(one) for one in state.attachments(item.id)],
        "NetworkInterfaces": [{"NetworkInterfaceId": f"eni-{n:017x}"} for n in range(item.network_interfaces)],
        "Tags": tags(item.tags),
    }


def _mapping(item: Attachment) -> Members:
    return {
        "DeviceName": item.device,
        "Ebs": {
            "VolumeId": item.volume_id,
            "Status": "detaching" if item.state.value == "busy" else item.state.value,
            "AttachTime": item.since,
            "DeleteOnTermination": item.delete_on_termination,
            "EbsCardIndex": item.card,
        },
    }


def instance_type(item: InstanceType) -> Members:
    is_nitro = item.hypervisor is Hypervisor.NITRO
    return {
        "InstanceType": item.name,
        "Hypervisor": item.hypervisor.value,
        "InstanceStorageSupported": item.nvme_stores > 0,
        "EbsInfo": {
            "NvmeSupport": "required" if is_nitro else "unsupported",
            "MaximumEbsAttachments": item.limit,
            "AttachmentLimitType": item.limit_type.value,
            **_cards(item),
        },
    }


def _cards(item: InstanceType) -> Members:
    """Of a type that has several."""
    if item.cards == 1:
        return {}
    return {"MaximumEbsCards": item.cards, "EbsCards": [{"EbsCardIndex": n} for n in range(item.cards)]}


def snapshot(item: Snapshot) -> Members:
    return {
        "SnapshotId": item.id,
        "VolumeId": item.volume_id,
        "VolumeSize": item.size_gib,
        "State": item.state.value,
        "Progress": item.progress,
        "StartTime": item.started,
        "Description": item.description,
        "OwnerId": item.scope.account,
        "Encrypted": False,
        "Tags": tags(item.tags),
    }


def tags(values: Mapping[str, str]) -> list[Members]:
    return [{"Key": key, "Value": value} for key, value in values.items()]
