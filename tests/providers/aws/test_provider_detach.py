"""The AWS provider detaches its own attachment, and nothing else."""

import os
from dataclasses import replace
from datetime import timedelta

import pytest

from cloudmanager.core.errors import AccessDenied, CloudUnavailable
from cloudmanager.core.model import NotAttached
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.ec2 import Emulation
from cloudmanager.testing.cloud.emulator import Operation
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.wire import Request, Response
from tests.providers.aws.clients import actions, attach, changes, make_provider, plan


def test_a_detach_costs_two_reads_around_one_change(cloud: Emulation, provider: Provider) -> None:
    attachment = attach(provider, cloud.make_disk("evidence-7"))
    cloud.calls.clear()
    provider.detach(attachment)
    assert actions(cloud) == ["DescribeVolumes", "DetachVolume", "DescribeVolumes"]


def test_a_second_detach_changes_nothing(cloud: Emulation, provider: Provider) -> None:
    attachment = attach(provider, cloud.make_disk("evidence-7"))
    provider.detach(attachment)
    cloud.calls.clear()
    provider.detach(attachment)
    assert changes(cloud) == []


def test_what_was_never_attached_is_detached(cloud: Emulation, provider: Provider) -> None:
    provider.detach(plan(provider, cloud.make_disk("evidence-7")).attachment())
    assert changes(cloud) == []


def test_a_deleted_volume_is_detached(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    attachment = attach(provider, volume)
    cloud.delete_disk(volume)
    provider.detach(attachment)


def test_a_deleted_instance_has_nothing_attached(cloud: Emulation, node: str, credentials: None) -> None:
    provider = make_provider(cloud, instance_id=node, availability_zone="us-east-1a")
    attachment = attach(provider, cloud.make_disk("evidence-7"))
    cloud.delete_instance("worker-1")
    provider.detach(attachment)


def test_a_volume_that_moved_to_another_instance_is_left_there(cloud: Emulation, provider: Provider) -> None:
    cloud.make_instance("worker-2")
    volume = cloud.make_disk("evidence-7")
    attachment = attach(provider, volume)
    cloud.detach_by_hand(volume, "worker-1")
    cloud.attach_by_hand(volume, "worker-2")
    cloud.calls.clear()
    provider.detach(attachment)
    assert (cloud.holders(volume), changes(cloud)) == (["worker-2"], [])


def test_what_somebody_attached_under_another_name_is_left_alone(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    attachment = attach(provider, volume)
    cloud.detach_by_hand(volume, "worker-1")
    cloud.attach_by_hand(volume, "worker-1", slot="/dev/sdf")
    cloud.calls.clear()
    provider.detach(attachment)
    assert (cloud.holders(volume), changes(cloud)) == (["worker-1"], [])


def test_a_detach_that_takes_time_is_waited_for(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    attachment = attach(provider, volume)
    cloud.faults.add(Fault("DetachVolume", Effect.LATE, seconds=0.3))
    provider.detach(attachment)
    assert cloud.holders(volume) == []
    assert changes(cloud).count("DetachVolume") == 1


@pytest.mark.parametrize("effect", [Effect.HANG, Effect.LIE, Effect.FAIL])
def test_a_detach_that_does_not_happen_is_an_error_within_its_bound(
    cloud: Emulation, provider: Provider, effect: Effect
) -> None:
    attachment = attach(provider, cloud.make_disk("evidence-7"))
    cloud.faults.add(Fault("DetachVolume", effect))
    with pytest.raises(CloudUnavailable, match=r"has not detached .* after 0\.6 s"):
        provider.detach(attachment)
    cloud.timeline.release()
    provider.detach(attachment)
    assert isinstance(provider.locate(attachment.disk), NotAttached)


def test_a_device_that_is_held_is_an_error_and_no_force_is_used(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    attachment = attach(provider, volume)
    held = os.open(cloud.guests["worker-1"].plugged[volume].node, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(CloudUnavailable):
            provider.detach(attachment)
    finally:
        os.close(held)
    assert cloud.guests["worker-1"].surprises == []
    provider.detach(attachment)


def test_a_pending_attach_is_waited_for_before_the_detach(cloud: Emulation, provider: Provider) -> None:
    cloud.faults.add(Fault("AttachVolume", Effect.HANG))
    volume = cloud.make_disk("evidence-7")
    planned = plan(provider, volume)
    kept: list[str] = []
    with pytest.raises(CloudUnavailable):
        provider.attach(planned, kept.append)
    ours = replace(planned.attachment(), proof=kept[-1])
    with pytest.raises(CloudUnavailable):
        provider.detach(ours)
    assert changes(cloud) == ["AttachVolume"]
    cloud.timeline.release()
    provider.detach(ours)
    assert cloud.holders(volume) == []


def test_an_attach_that_is_stuck_can_be_detached(cloud: Emulation, node: str, credentials: None) -> None:
    cloud.faults.add(Fault("AttachVolume", Effect.HANG))
    planned = plan(make_provider(cloud), cloud.make_disk("evidence-7"))
    kept: list[str] = []
    with pytest.raises(CloudUnavailable):
        make_provider(cloud).attach(planned, kept.append)
    make_provider(cloud, stuck_seconds=0.1).detach(replace(planned.attachment(), proof=kept[-1]))
    assert cloud.holders(planned.disk.id.native) == []


def test_what_somebody_has_attached_again_under_the_same_name_stays(cloud: Emulation, provider: Provider) -> None:
    """The time of the attach tells it from ours."""
    volume = cloud.make_disk("evidence-7")
    attachment = attach(provider, volume)
    cloud.detach_by_hand(volume, "worker-1")
    cloud.attach_by_hand(volume, "worker-1", slot=attachment.slot)
    cloud.volume(volume).attachments[0].since += timedelta(seconds=10)
    provider.detach(attachment)
    assert cloud.holders(volume) == ["worker-1"]
    assert changes(cloud) == ["AttachVolume"]


def test_one_throttled_detach_does_not_keep_the_volume(cloud: Emulation, node: str, credentials: None) -> None:
    provider = make_provider(cloud, retry_attempts=3)
    volume = cloud.make_disk("evidence-7")
    attachment = attach(provider, volume)
    cloud.faults.add(Fault("DetachVolume", Effect.THROTTLE))
    provider.detach(attachment)
    assert cloud.holders(volume) == []


def test_a_failed_look_is_not_taken_for_absence(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    attachment = attach(provider, volume)
    cloud.denied.add("DescribeVolumes")
    with pytest.raises(AccessDenied):
        provider.detach(attachment)
    assert cloud.holders(volume) == ["worker-1"]


def test_the_instance_is_always_named(cloud: Emulation, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it EC2 detaches the volume from whichever instance has it by then."""
    asked: list[bytes] = []
    perform = cloud.perform

    def noted(operation: Operation, request: Request, fault: Fault | None) -> Response:
        asked.append(request.body)
        return perform(operation, request, fault)

    monkeypatch.setattr(cloud, "perform", noted)
    provider.detach(attach(provider, cloud.make_disk("evidence-7")))
    detaches = [body for body in asked if b"Action=DetachVolume" in body]
    assert len(detaches) == 1
    assert b"InstanceId=i-" in detaches[0]
    assert b"Force" not in detaches[0]
