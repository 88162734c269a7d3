"""Snapshots, volumes from them, and their end: the next step for a disk that is in use elsewhere."""

import pytest

from cloudmanager.core.errors import CloudError, CloudUnavailable, DiskInUse, InvalidRequest, WrongZone
from cloudmanager.core.model import DiskId, Snapshot
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.ec2 import Emulation
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.aws.clients import Client, attach, changes, describe, make_provider

MARK = b"evidence"


def source(cloud: Emulation, zone: str = "us-east-1b") -> str:
    volume = cloud.make_disk("source", location=zone)
    with cloud.backing(volume).open("r+b") as file:
        file.write(MARK)
    return volume


def test_a_volume_in_use_in_another_zone_is_copied_here(cloud: Emulation, provider: Provider) -> None:
    cloud.make_instance("worker-2", location="us-east-1b")
    volume = source(cloud)
    cloud.attach_by_hand(volume, "worker-2")
    snapshot = provider.snapshot(describe(provider, volume), "case-42")
    assert (snapshot.size_bytes, snapshot.location) == (1024**3, "us-east-1")
    copy = provider.restore(snapshot, "case-42-copy")
    assert (copy.location, copy.description) == ("us-east-1a", "case-42-copy")
    with cloud.backing(copy.id.native).open("rb") as file:
        assert file.read(len(MARK)) == MARK
    attach(provider, copy.id.native)


def test_copies_are_idempotent_by_name(cloud: Emulation, provider: Provider) -> None:
    disk = describe(provider, source(cloud))
    snapshot = provider.snapshot(disk, "case-42")
    assert provider.snapshot(disk, "case-42") == snapshot
    assert provider.restore(snapshot, "copy") == provider.restore(snapshot, "copy")
    assert provider.snapshot(disk, "case-43") != snapshot
    assert changes(cloud) == ["CreateSnapshot", "CreateVolume", "CreateSnapshot"]


def test_what_was_made_is_tagged(cloud: Emulation, provider: Provider) -> None:
    snapshot = provider.snapshot(describe(provider, source(cloud)), "case-42")
    copy = provider.restore(snapshot, "copy")
    assert copy.labels == {"made-by": "cloudmanager", "Name": "copy"}
    assert cloud.state.snapshots[snapshot.id.native].tags == {"made-by": "cloudmanager", "Name": "case-42"}


def test_a_snapshot_that_failed_is_an_error_and_the_next_one_is_new(cloud: Emulation, provider: Provider) -> None:
    disk = describe(provider, source(cloud))
    cloud.faults.add(Fault("CreateSnapshot", Effect.FAIL))
    with pytest.raises(CloudError, match="could not make the snapshot"):
        provider.snapshot(disk, "case-42")
    provider.snapshot(disk, "case-42")


def test_a_volume_that_failed_is_an_error_and_the_next_one_is_new(cloud: Emulation, provider: Provider) -> None:
    snapshot = provider.snapshot(describe(provider, source(cloud)), "case-42")
    cloud.faults.add(Fault("CreateVolume", Effect.FAIL))
    with pytest.raises(CloudError, match="could not make the volume"):
        provider.restore(snapshot, "copy")
    provider.restore(snapshot, "copy")


def test_a_copy_that_takes_long_is_retriable_and_found_again(cloud: Emulation, provider: Provider) -> None:
    disk = describe(provider, source(cloud))
    cloud.faults.add(Fault("CreateSnapshot", Effect.HANG))
    with pytest.raises(CloudUnavailable, match="ask again"):
        provider.snapshot(disk, "case-42")
    cloud.timeline.release()
    provider.snapshot(disk, "case-42")
    assert changes(cloud) == ["CreateSnapshot"]


def test_a_lost_answer_to_a_new_volume_makes_no_second_one(cloud: Emulation, node: str, credentials: None) -> None:
    provider = make_provider(cloud, retry_attempts=2)
    snapshot = provider.snapshot(describe(provider, source(cloud)), "case-42")
    before = len(cloud.state.volumes)
    cloud.faults.add(Fault("CreateVolume", Effect.CUT_AFTER))
    provider.restore(snapshot, "copy")
    assert len(cloud.state.volumes) == before + 1


def test_what_we_made_can_be_deleted_and_is_gone_then(cloud: Emulation, provider: Provider) -> None:
    snapshot = provider.snapshot(describe(provider, source(cloud)), "case-42")
    copy = provider.restore(snapshot, "copy")
    for item in (copy, snapshot):
        provider.delete(item)
        provider.delete(item)
    assert (copy.id.native in cloud.state.volumes, cloud.state.snapshots) == (False, {})


def test_what_somebody_else_made_is_not_deleted(cloud: Emulation, ec2: Client, provider: Provider) -> None:
    volume = source(cloud)
    foreign = Snapshot(DiskId("aws", ec2.create_snapshot(VolumeId=volume)["SnapshotId"]), 0)
    cloud.calls.clear()
    for item in (describe(provider, volume), foreign):
        with pytest.raises(InvalidRequest, match="only what it made"):
            provider.delete(item)
    assert changes(cloud) == []


def test_an_attached_copy_is_not_deleted(cloud: Emulation, provider: Provider) -> None:
    copy = provider.restore(provider.snapshot(describe(provider, source(cloud)), "case-42"), "copy")
    attach(provider, copy.id.native)
    with pytest.raises(DiskInUse):
        provider.delete(copy)


def test_a_snapshot_of_another_region_cannot_be_restored_here(cloud: Emulation, node: str, credentials: None) -> None:
    provider = make_provider(cloud, regions=["us-east-1", "eu-west-1"])
    snapshot = provider.snapshot(describe(provider, source(cloud, "eu-west-1a")), "case-42")
    assert snapshot.id.native.startswith("eu-west-1/snap-")
    with pytest.raises(WrongZone, match="copy it to us-east-1 first"):
        provider.restore(snapshot, "copy")
    provider.delete(snapshot)


def test_a_name_with_a_wildcard_means_itself(cloud: Emulation, provider: Provider) -> None:
    disk = describe(provider, source(cloud))
    provider.snapshot(disk, "case-42")
    provider.snapshot(disk, "case-*")
    assert len(cloud.state.snapshots) == 2
