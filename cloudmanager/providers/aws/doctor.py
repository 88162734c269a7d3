"""What `cloudmanager doctor` says of a provider: identity, permissions (by dry runs), devices."""

from collections.abc import Iterator

from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.model import Finding, Severity
from cloudmanager.providers.aws.api import Ec2, filter_by
from cloudmanager.providers.aws.facts import Volume
from cloudmanager.providers.aws.machine import Machine

_POLICY = "Add it to the role's policy: docs/providers/aws.md has the whole of it."


def diagnose(name: str, machine: Machine, ec2: Ec2) -> Iterator[Finding]:
    """`name` is the provider's. Nothing is changed: a dry run asks EC2's policies and does nothing."""
    subject = f"provider {name}"
    yield Finding(subject, Severity.OK, f"this machine is {machine.instance_id} in {machine.zone}")
    try:
        mine = list(ec2.every_volume(filter_by("attachment.instance-id", machine.instance_id)))
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
    yield Finding(subject, Severity.OK, f"{len(mine)} volume{'s' * (len(mine) > 1)} of this machine")
    yield from _permissions(subject, machine, ec2, mine[0])


def _permissions(subject: str, machine: Machine, ec2: Ec2, volume: Volume) -> Iterator[Finding]:
    on_machine = {"VolumeId": volume.id, "InstanceId": machine.instance_id}
    yield _permission(subject, ec2, "AttachVolume", "attach_volume", Device="/dev/xvddx", **on_machine)
    yield _permission(subject, ec2, "DetachVolume", "detach_volume", **on_machine)


def _permission(subject: str, ec2: Ec2, action: str, method: str, **parameters: str) -> Finding:
    try:
        allowed = ec2.may(method, **parameters)
    except CloudManagerError as error:
        return Finding(subject, Severity.WARNING, f"{action} could not be checked: {error.detail}")
    if allowed:
        return Finding(subject, Severity.OK, f"{action} is allowed")
    return Finding(subject, Severity.PROBLEM, f"{action} is not allowed", _POLICY)
