"""The AWS provider attaches, on the real boto3, with real block devices."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from cloudmanager.core.errors import AttachLimit, CloudUnavailable, DiskInUse, DiskNotFound, NameClash, WrongZone
from cloudmanager.core.model import Access, Device, NotAttached
from cloudmanager.core.plugins import Provider
from cloudmanager.providers.aws import attaching
from cloudmanager.providers.aws.device_name import NAMES
from cloudmanager.testing.cloud.ec2 import Emulation
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.aws.clients import Client, actions, attach, changes, describe, make_provider, plan

MIB = 1024**2


@pytest.mark.parametrize("type_name", ["m5.large", "m4.large"], ids=["nitro", "xen"])
def test_the_whole_way(cloud: Emulation, credentials: None, tmp_path: Path, type_name: str) -> None:
    cloud.make_instance("worker-1", type_name=type_name)
    content = tmp_path / "content"
    content.write_bytes(os.urandom(MIB))
    volume = cloud.make_disk("evidence-7", content=content)
    provider = make_provider(cloud)
    disk = describe(provider, volume)
    planned = provider.plan_attach(disk, Access.READ_ONLY)
    attachment = provider.attach(planned)
    assert (attachment.slot, attachment.request_id) == (planned.slot, planned.request_id)
    assert attachment.access is Access.READ_WRITE  # EBS has no read-only attach: it is enforced on the device
    device = provider.locate(disk)
    assert isinstance(device, Device)
    with Path(device.path).open("rb") as file:
        assert file.read(MIB) == content.read_bytes()
    provider.detach(attachment)
    assert isinstance(provider.locate(disk), NotAttached)
    assert cloud.holders(volume) == []
    assert not Path(device.path).exists()


def test_an_attach_costs_one_read_for_the_plan_and_two_reads_around_one_change(
    cloud: Emulation, provider: Provider
) -> None:
    disk = describe(provider, cloud.make_disk("evidence-7"))
    cloud.calls.clear()
    planned = provider.plan_attach(disk, Access.READ_ONLY)
    assert actions(cloud) == ["DescribeInstanceTypes", "DescribeVolumes"]  # the former only once
    cloud.calls.clear()
    provider.attach(planned)
    assert actions(cloud) == ["DescribeVolumes", "AttachVolume", "DescribeVolumes"]
    cloud.calls.clear()
    provider.locate(disk)
    assert actions(cloud) == []


def test_our_own_part_of_an_attach_takes_less_than_150_ms(cloud: Emulation, provider: Provider) -> None:
    """With an emulator that answers at once; the best of five, because other tests run beside this one."""
    disks = [describe(provider, cloud.make_disk(f"evidence-{number}")) for number in range(5)]
    durations = []
    for disk in disks:
        started = time.perf_counter()
        provider.attach(provider.plan_attach(disk, Access.READ_ONLY))
        provider.locate(disk)
        durations.append(time.perf_counter() - started)
    assert min(durations) < 0.15


def test_a_second_attach_changes_nothing(cloud: Emulation, provider: Provider) -> None:
    planned = plan(provider, cloud.make_disk("evidence-7"))
    first = provider.attach(planned)
    cloud.calls.clear()
    assert provider.attach(planned) == first
    assert changes(cloud) == []


def test_an_attach_that_takes_time_is_waited_for(cloud: Emulation, provider: Provider) -> None:
    cloud.faults.add(Fault("AttachVolume", Effect.LATE, seconds=0.3))
    volume = cloud.make_disk("evidence-7")
    attach(provider, volume)
    assert cloud.volume(volume).attachments[0].state == "attached"


def test_an_attach_that_does_not_end_is_an_error_within_its_bound(cloud: Emulation, provider: Provider) -> None:
    cloud.faults.add(Fault("AttachVolume", Effect.HANG))
    planned = plan(provider, cloud.make_disk("evidence-7"))
    with pytest.raises(CloudUnavailable, match=r"has not attached .* after 0\.6 s"):
        provider.attach(planned)
    assert changes(cloud) == ["AttachVolume"]
    cloud.timeline.release()
    assert provider.attach(planned).request_id == planned.request_id


def test_an_attach_of_ours_that_is_stuck_is_undone_and_gets_another_name(
    cloud: Emulation, node: str, credentials: None
) -> None:
    cloud.faults.add(Fault("AttachVolume", Effect.HANG))
    provider = make_provider(cloud, stuck_seconds=0.1)
    volume = cloud.make_disk("evidence-7")
    stuck = plan(provider, volume)
    with pytest.raises(NameClash, match=f"stuck attaching as {stuck.slot}"):
        provider.attach(stuck)
    assert changes(cloud) == ["AttachVolume", "DetachVolume"]
    assert cloud.holders(volume) == []
    assert attach(provider, volume).slot != stuck.slot


def test_a_stuck_attach_of_somebody_else_is_left_alone(
    cloud: Emulation, ec2: Client, node: str, credentials: None
) -> None:
    provider = make_provider(cloud, stuck_seconds=0.1)
    planned = plan(provider, cloud.make_disk("evidence-7"))
    cloud.faults.add(Fault("AttachVolume", Effect.HANG))
    ec2.attach_volume(VolumeId=planned.disk.id.native, InstanceId=node, Device="/dev/sdf")
    with pytest.raises(CloudUnavailable):
        provider.attach(planned)
    assert changes(cloud) == ["AttachVolume"]


def test_an_attach_that_ec2_gives_up_is_an_error(cloud: Emulation, provider: Provider) -> None:
    cloud.faults.add(Fault("AttachVolume", Effect.FAIL))
    with pytest.raises(CloudUnavailable):
        attach(provider, cloud.make_disk("evidence-7"))


def test_an_attach_that_lies_is_an_error(cloud: Emulation, provider: Provider) -> None:
    cloud.faults.add(Fault("AttachVolume", Effect.LIE))
    with pytest.raises(CloudUnavailable):
        attach(provider, cloud.make_disk("evidence-7"))


def test_a_stale_describe_is_no_success(cloud: Emulation, provider: Provider) -> None:
    planned = plan(provider, cloud.make_disk("evidence-7"))
    cloud.faults.add(Fault("DescribeVolumes", Effect.STALE, times=0))
    with pytest.raises(CloudUnavailable):
        provider.attach(planned)


def test_a_lost_answer_to_an_attach_is_looked_up_and_not_asked_again(
    cloud: Emulation, node: str, credentials: None
) -> None:
    cloud.faults.add(Fault("AttachVolume", Effect.CUT_AFTER))
    planned = plan(make_provider(cloud, retry_attempts=3), cloud.make_disk("evidence-7"))
    attachment = make_provider(cloud, retry_attempts=3).attach(planned)
    assert attachment.request_id == planned.request_id
    assert changes(cloud) == ["AttachVolume"]


def test_an_unavailable_answer_though_it_worked_is_no_volume_in_use(cloud: Emulation, provider: Provider) -> None:
    """aws-sdk-java#1623: Unavailable, and the next attach said VolumeInUse."""
    cloud.faults.add(Fault("AttachVolume", Effect.CUT_AFTER))
    planned = plan(provider, cloud.make_disk("evidence-7"))
    assert provider.attach(planned).request_id == planned.request_id
    assert changes(cloud) == ["AttachVolume"]


def test_volume_in_use_at_the_very_name_is_somebody_elses_faster_request(cloud: Emulation, provider: Provider) -> None:
    planned = plan(provider, cloud.make_disk("evidence-7"))
    volume = planned.disk.id.native
    cloud.faults.add(Fault("DescribeVolumes", Effect.STALE))
    cloud.attach_by_hand(volume, "worker-1", slot=planned.slot)
    kept: list[str] = []
    assert provider.attach(planned, kept.append).request_id == ""
    assert kept[-1] == ""


def test_a_request_that_never_arrived_proves_nothing(cloud: Emulation, provider: Provider) -> None:
    planned = plan(provider, cloud.make_disk("evidence-7"))
    cloud.faults.add(Fault("AttachVolume", Effect.CUT_BEFORE, times=0))
    kept: list[str] = []
    with pytest.raises(CloudUnavailable):
        provider.attach(planned, kept.append)
    cloud.attach_by_hand(planned.disk.id.native, "worker-1", slot=planned.slot)
    assert provider.attach(replace(planned, proof=kept[-1])).request_id == ""


def test_a_request_that_was_cut_short_is_known_by_the_time_and_for_no_longer(
    cloud: Emulation, provider: Provider
) -> None:
    """The process was killed after it had asked, and before it knew of an answer."""
    planned = plan(provider, cloud.make_disk("evidence-7"))
    kept: list[str] = []
    provider.attach(planned, kept.append)
    assert [proof.partition(" ")[0] for proof in kept] == ["asked", "attached"]
    asked = replace(planned, proof=kept[0])
    assert make_provider(cloud).attach(asked).request_id == planned.request_id
    cloud.volume(planned.disk.id.native).attachments[0].since += timedelta(minutes=1)
    later = make_provider(cloud).attach(asked)
    assert later.request_id == ""
    assert "nothing proves that a request of this service did that" in later.reason


def test_names_are_drawn_by_lot(cloud: Emulation, provider: Provider) -> None:
    """Eight times the same one of 96 would be a wonder."""
    disk = describe(provider, cloud.make_disk("evidence-7"))
    others = [make_provider(cloud, lock_dir=str(cloud.directory / f"lock-{number}")) for number in range(8)]
    assert len({other.plan_attach(disk, Access.READ_ONLY).slot for other in others}) > 1


def test_a_volume_on_another_instance_is_in_use_and_stays_there(cloud: Emulation, provider: Provider) -> None:
    cloud.make_instance("worker-2")
    volume = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(volume, "worker-2")
    with pytest.raises(DiskInUse) as caught:
        attach(provider, volume)
    assert caught.value.holder == cloud.instance("worker-2").id
    assert changes(cloud) == []


def test_a_volume_that_another_instance_gets_meanwhile_is_in_use_with_ec2s_code(
    cloud: Emulation, provider: Provider
) -> None:
    cloud.make_instance("worker-2")
    planned = plan(provider, cloud.make_disk("evidence-7"))
    cloud.faults.add(Fault("DescribeVolumes", Effect.STALE))
    cloud.attach_by_hand(planned.disk.id.native, "worker-2")
    with pytest.raises(DiskInUse) as caught:
        provider.attach(planned)
    assert (caught.value.holder, caught.value.cloud_code) == (cloud.instance("worker-2").id, "VolumeInUse")


def test_a_multi_attach_volume_can_be_on_another_instance_too(cloud: Emulation, provider: Provider) -> None:
    cloud.make_instance("worker-2")
    volume = cloud.make_disk("shared", is_shared=True)
    cloud.attach_by_hand(volume, "worker-2")
    provider.detach(attach(provider, volume))
    assert cloud.holders(volume) == ["worker-2"]


def test_what_was_attached_by_hand_before_is_not_ours(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(volume, "worker-1", slot="/dev/sdf")
    planned = plan(provider, volume)
    assert (planned.is_present, planned.slot) == (True, "/dev/sdf")
    assert provider.attach(planned).request_id == ""
    assert changes(cloud) == []


def test_what_was_attached_by_hand_after_the_plan_is_not_ours(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    planned = plan(provider, volume)
    cloud.attach_by_hand(volume, "worker-1")
    attachment = provider.attach(planned)
    assert (attachment.slot, attachment.request_id) == ("/dev/sdf", "")


def test_a_plan_of_a_present_volume_that_left_is_made_anew(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(volume, "worker-1")
    planned = plan(provider, volume)
    cloud.detach_by_hand(volume, "worker-1")
    with pytest.raises(NameClash, match="needs a new plan"):
        provider.attach(planned)


def test_an_attach_waits_for_an_earlier_detach_and_survives_it(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    old = attach(provider, volume)
    cloud.faults.add(Fault("DetachVolume", Effect.HANG))
    with pytest.raises(CloudUnavailable):
        provider.detach(old)
    new = plan(provider, volume)
    assert not new.is_present
    assert new.slot != old.slot
    threading.Timer(0.2, cloud.timeline.release).start()
    assert provider.attach(new).slot == new.slot
    assert isinstance(provider.locate(new.disk), Device)


def test_the_old_plan_of_a_volume_that_is_leaving_is_made_anew(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    old = plan(provider, volume)
    cloud.faults.add(Fault("DetachVolume", Effect.LATE, seconds=0.2))
    attached = provider.attach(old)
    with ThreadPoolExecutor() as pool:
        detaching = pool.submit(provider.detach, attached)
        while cloud.volume(volume).attachments[0].state != "detaching":
            time.sleep(0.01)
        with pytest.raises(NameClash):
            provider.attach(old)
        detaching.result()


def test_the_wrong_zone_is_told_with_what_to_do(cloud: Emulation, provider: Provider) -> None:
    with pytest.raises(WrongZone, match="snapshot") as caught:
        attach(provider, cloud.make_disk("evidence-7", location="us-east-1b"))
    assert caught.value.cloud_code == "InvalidVolume.ZoneMismatch"


def test_another_region_is_the_wrong_zone_too(cloud: Emulation, node: str, credentials: None) -> None:
    provider = make_provider(cloud, regions=["us-east-1", "eu-west-1"])
    with pytest.raises(WrongZone, match="copy a snapshot of it to us-east-1"):
        attach(provider, cloud.make_disk("evidence-7", location="eu-west-1a"))


def test_at_the_limit_a_freed_place_helps(
    cloud: Emulation, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.guests["worker-1"], "plug", lambda *_: None)  # 26 loop devices would prove no more
    others = [cloud.make_disk("") for _ in range(26)]
    for other in others:
        cloud.attach_by_hand(other, "worker-1")
    volume = cloud.make_disk("evidence-7")
    with pytest.raises(AttachLimit, match="larger instance type") as caught:
        attach(provider, volume)
    assert caught.value.cloud_code == "AttachmentLimitExceeded"
    cloud.detach_by_hand(others[0], "worker-1")
    attach(provider, volume)


def test_a_name_that_the_image_maps_is_skipped_by_the_next_plan(cloud: Emulation, credentials: None) -> None:
    cloud.make_instance("worker-1", ami_devices=NAMES[:-1])
    cloud.limits.lift()
    volume = cloud.make_disk("evidence-7")
    provider = make_provider(cloud)
    slots: list[str] = []
    for _ in NAMES:
        with suppress(NameClash):
            slots.append(attach(provider, volume).slot)
            break
    assert slots == [NAMES[-1]]


def test_a_name_that_a_volume_has_is_not_planned(
    cloud: Emulation, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attaching, "NAMES", NAMES[:2])
    cloud.attach_by_hand(cloud.make_disk(""), "worker-1", slot=NAMES[0])
    assert plan(provider, cloud.make_disk("evidence-7")).slot == NAMES[1]


def test_a_name_is_not_used_again_quickly(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    slots = []
    for _ in range(3):
        attachment = attach(provider, volume)
        provider.detach(attachment)
        slots.append(attachment.slot)
    assert len(set(slots)) == 3


def test_concurrent_attaches_of_one_volume_make_one_change(cloud: Emulation, provider: Provider) -> None:
    planned = plan(provider, cloud.make_disk("evidence-7"))
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(provider.attach, [planned] * 8))
    assert {attachment.slot for attachment in done} == {planned.slot}
    assert changes(cloud) == ["AttachVolume"]


def test_concurrent_plans_take_different_names(cloud: Emulation, provider: Provider) -> None:
    volumes = [cloud.make_disk(f"evidence-{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda volume: attach(provider, volume), volumes))
    assert len({attachment.slot for attachment in done}) == 8


def test_a_volume_that_is_deleted_meanwhile_is_not_found(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    planned = plan(provider, volume)
    cloud.delete_disk(volume)
    with pytest.raises(DiskNotFound):
        provider.attach(planned)


@pytest.mark.parametrize(("action", "nth"), [("DescribeVolumes", 1), ("DescribeVolumes", 2)])
def test_a_killed_provider_is_followed_by_one_that_converges(
    cloud: Emulation, provider: Provider, action: str, nth: int
) -> None:
    """Killed after any call of an attach: the next provider ends with one attachment, known as ours by its plan."""
    planned = plan(provider, cloud.make_disk("evidence-7"))
    cloud.faults.add(Fault(action, Effect.CUT_AFTER, nth=nth))
    kept = [""]
    with pytest.raises(CloudUnavailable):
        provider.attach(planned, kept.append)
    committed = replace(planned, proof=kept[-1])
    assert make_provider(cloud).attach(committed).request_id == planned.request_id
    assert cloud.holders(planned.disk.id.native) == ["worker-1"]
    assert changes(cloud) == ["AttachVolume"]
