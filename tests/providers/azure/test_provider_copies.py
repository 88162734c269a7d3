"""Snapshots, disks made from them, and what is deleted again."""

import os
from pathlib import Path

import pytest

from cloudmanager.core.errors import (
    CloudError,
    CloudUnavailable,
    Conflict,
    DiskNotFound,
    InvalidDiskId,
    InvalidRequest,
    WrongZone,
)
from cloudmanager.core.model import Device, Disk, Snapshot
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.azure.clients import attach, describe, make_provider

MIB = 1024**2


@pytest.fixture
def held(cloud: AzureEmulation, provider: Provider) -> Disk:
    """A disk with bytes, that another machine has."""
    cloud.make_disk("evidence-7", size_bytes=MIB)
    cloud.backing("evidence-7").write_bytes(os.urandom(MIB))
    cloud.attach_by_hand("evidence-7", "worker-2")
    return describe(provider, "evidence-7")


def test_a_disk_in_use_elsewhere_is_copied_attached_here_and_the_copies_are_deleted(
    cloud: AzureEmulation, provider: Provider, held: Disk
) -> None:
    original = cloud.backing("evidence-7").read_bytes()
    snapshot = provider.snapshot(held, "snap-1")
    assert (snapshot.size_bytes, snapshot.location) == (MIB, "westeurope")
    cloud.backing("evidence-7").write_bytes(bytes(MIB))
    restored = provider.restore(snapshot, "restored-1")
    assert (restored.location, dict(restored.labels)) == ("westeurope-1", {"made-by": "cloudmanager"})
    attachment = attach(provider, "restored-1")
    device = provider.locate(attachment.disk)
    assert isinstance(device, Device)
    assert Path(device.path).read_bytes() == original
    provider.detach(attachment)
    for item in (restored, snapshot):
        provider.delete(item)
        provider.delete(item)
    assert set(cloud.state.disks) == {cloud.resource("evidence-7", "disks").key}
    assert cloud.state.snapshots == {}


def test_the_same_name_means_the_same_copy(cloud: AzureEmulation, provider: Provider, held: Disk) -> None:
    first = provider.snapshot(held, "snap-1")
    cloud.calls.clear()
    assert provider.snapshot(held, "snap-1") == first
    disk = provider.restore(first, "restored-1")
    assert provider.restore(first, "restored-1").canonical_id == disk.canonical_id
    assert [call.operation for call in cloud.calls.mutations()] == ["Disks_CreateOrUpdate"]


def test_a_name_that_means_something_else_is_a_conflict(cloud: AzureEmulation, provider: Provider, held: Disk) -> None:
    snapshot = provider.snapshot(held, "snap-1")
    cloud.make_disk("other-1")
    with pytest.raises(Conflict, match="another name"):
        provider.snapshot(describe(provider, "other-1"), "snap-1")
    with pytest.raises(Conflict, match="another name"):
        provider.restore(snapshot, "other-1")


def test_what_was_not_made_here_is_not_deleted(cloud: AzureEmulation, provider: Provider, held: Disk) -> None:
    cloud.make_disk("mine-1")
    with pytest.raises(InvalidRequest, match="made-by"):
        provider.delete(describe(provider, "mine-1"))
    snapshot = provider.snapshot(held, "snap-1")
    cloud.state.snapshot(cloud.resource("snap-1", "snapshots")).tags.clear()
    with pytest.raises(InvalidRequest, match="made-by"):
        provider.delete(snapshot)
    assert [call.operation for call in cloud.calls.mutations()] == ["Snapshots_CreateOrUpdate"]


def test_the_copy_is_waited_for(cloud: AzureEmulation, provider: Provider, held: Disk) -> None:
    cloud.timeline.pace = 0.01
    provider.snapshot(held, "snap-1")
    assert cloud.state.snapshot(cloud.resource("snap-1", "snapshots")).completion_percent == 100


def test_a_copy_that_takes_too_long_goes_on_and_is_found_again(
    cloud: AzureEmulation, identity: None, held: Disk
) -> None:
    hasty = make_provider(cloud, copy_timeout_seconds=0.3, poll_seconds=0.05)
    cloud.faults.add(Fault("Snapshots_CreateOrUpdate", Effect.HANG))
    with pytest.raises(CloudUnavailable) as caught:
        hasty.snapshot(held, "snap-1")
    assert caught.value.retriable
    with pytest.raises(CloudUnavailable, match="not complete"):
        hasty.snapshot(held, "snap-1")
    cloud.timeline.release()
    assert hasty.snapshot(held, "snap-1").size_bytes == MIB
    assert len(cloud.calls.mutations()) == 1


def test_a_copy_that_fails_leaves_nothing(cloud: AzureEmulation, provider: Provider, held: Disk) -> None:
    cloud.faults.add(Fault("Snapshots_CreateOrUpdate", Effect.FAIL, code="SnapshotQuotaExceeded"))
    with pytest.raises(CloudError) as caught:
        provider.snapshot(held, "snap-1")
    assert caught.value.cloud_code == "SnapshotQuotaExceeded"
    assert cloud.state.snapshots == {}


def test_a_quota_of_disks_is_told_in_azures_words(cloud: AzureEmulation, provider: Provider, held: Disk) -> None:
    snapshot = provider.snapshot(held, "snap-1")
    cloud.disks.quota = 1
    with pytest.raises(CloudError, match="Current Limit: 1"):
        provider.restore(snapshot, "restored-1")


def test_a_snapshot_of_another_region_is_refused(cloud: AzureEmulation, provider: Provider, held: Disk) -> None:
    cloud.make_disk("far-1", size_bytes=512, location="northeurope-1")
    snapshot = provider.snapshot(describe(provider, "far-1"), "snap-1")
    with pytest.raises(WrongZone, match="northeurope"):
        provider.restore(snapshot, "restored-1")


def test_the_source_must_be_there(cloud: AzureEmulation, provider: Provider, held: Disk) -> None:
    snapshot = provider.snapshot(held, "snap-1")
    provider.delete(snapshot)
    with pytest.raises(DiskNotFound):
        provider.restore(snapshot, "restored-1")
    cloud.delete_disk("evidence-7")
    with pytest.raises(DiskNotFound):
        provider.snapshot(held, "snap-2")


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 81])
def test_names_are_azures(provider: Provider, held: Disk, name: str) -> None:
    with pytest.raises(InvalidDiskId):
        provider.snapshot(held, name)


def test_the_kind_of_restored_disks_can_be_set(cloud: AzureEmulation, identity: None, held: Disk) -> None:
    provider = make_provider(cloud, restored_sku="Premium_LRS")
    restored = provider.restore(provider.snapshot(held, "snap-1"), "restored-1")
    assert "Premium_LRS" in restored.description
    assert isinstance(provider.snapshot(held, "snap-1"), Snapshot)
