"""What `cloudmanager doctor` says of a provider: identity, permissions (by dry runs), devices."""

from collections.abc import Iterator, Sequence

from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.model import Finding, Severity
from cloudmanager.providers.aws.api import Ec2, filter_by
from cloudmanager.providers.aws.facts import EbsLimits, Volume
from cloudmanager.providers.aws.machine import Machine, capacity
from cloudmanager.providers.aws.settings import AwsSettings
from cloudmanager.providers.aws.wiring import Parts

_POLICY = "Add it to the role's policy: docs/providers/aws.md has the whole of it."
_NO_VOLUME = (
    f"{_POLICY} If the policy requires a tag, give it to the volumes that may be used: none that was tried has it."
)
_MOST_TRIED = 20
"""Volumes with different tags: a policy may require one."""


def diagnose(name: str, settings: AwsSettings, parts: Parts) -> Iterator[Finding]:
    """`name` is the provider's. Nothing is changed: a dry run asks EC2's policies and does nothing."""
    subject = f"provider {name}"
    machine, ec2 = parts.machine, parts.home
    yield Finding(subject, Severity.OK, f"this machine is {machine.instance_id} in {machine.zone}")
    try:
        mine = list(ec2.every_volume(filter_by("attachment.instance-id", machine.instance_id)))
        others, _ = ec2.volumes([filter_by("availability-zone", machine.zone)])
    except CloudManagerError as error:
        yield Finding(subject, Severity.PROBLEM, f"DescribeVolumes: {error.detail}", _POLICY)
        return
    if not mine:
        yield Finding(
            subject,
            Severity.PROBLEM,
            f"EC2 knows no volume of {machine.instance_id} in {machine.region}, and every instance has one",
            "Check instance_id and availability_zone, and that the credentials belong to the instance's account.",
        )
        return
    yield _limit(subject, settings, parts, len(mine))
    yield from _permissions(subject, machine, ec2, _tagged_differently([*mine, *others]))


def _limit(subject: str, settings: AwsSettings, parts: Parts, used: int) -> Finding:
    try:
        limits = EbsLimits() if settings.max_disks else parts.read_ebs_limits()
    except CloudManagerError as error:
        seen = f"{used} disks attached; the limit is unknown: {error.detail}"
        return Finding(subject, Severity.WARNING, seen, "Add ec2:DescribeInstanceTypes to the role's policy.")
    return capacity(settings, parts.machine, limits, used).finding(subject)


def _tagged_differently(volumes: Sequence[Volume]) -> list[Volume]:
    """One for each set of tags, beside their names."""
    by_tags = {frozenset(pair for pair in volume.tags.items() if pair[0] != "Name"): volume for volume in volumes}
    return list(by_tags.values())[:_MOST_TRIED]


def _permissions(subject: str, machine: Machine, ec2: Ec2, volumes: Sequence[Volume]) -> Iterator[Finding]:
    yield _permission(subject, machine, ec2, "AttachVolume", volumes)
    yield _permission(subject, machine, ec2, "DetachVolume", volumes)


def _permission(subject: str, machine: Machine, ec2: Ec2, action: str, volumes: Sequence[Volume]) -> Finding:
    """Allowed for one volume is allowed: others may lack a tag that the policy requires."""
    device = {"Device": "/dev/xvddx"} if action == "AttachVolume" else {}
    method = {"AttachVolume": "attach_volume", "DetachVolume": "detach_volume"}[action]
    for refused, volume in enumerate(volumes):
        try:
            allowed = ec2.may(method, VolumeId=volume.id, InstanceId=machine.instance_id, **device)
        except CloudManagerError as error:
            return Finding(subject, Severity.WARNING, f"{action} could not be checked: {error.detail}")
        if allowed:
            only = f" for volumes such as {volume.id}, and not for all" if refused else ""
            return Finding(subject, Severity.OK, f"{action} is allowed{only}")
    return Finding(subject, Severity.PROBLEM, f"{action} is not allowed", _NO_VOLUME)
