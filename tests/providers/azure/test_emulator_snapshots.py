"""Snapshots and what is made from them."""

from pathlib import Path

from azure.mgmt.compute.models import CreationData, Disk, DiskProperties, Snapshot, SnapshotProperties

from cloudmanager.testing.cloud.azure import AzureEmulation
from cloudmanager.testing.cloud.azure.accounts import Identity
from cloudmanager.testing.cloud.azure.emulation import GROUP
from tests.providers.azure.clients import Sdk, refused

CONTENT = b"the bytes of the moment".ljust(4096, b".")


def copy_of(source: str) -> CreationData:
    return CreationData(create_option="Copy", source_resource_id=source)


def snapshot_of(source: str) -> Snapshot:
    properties = SnapshotProperties(creation_data=copy_of(source), incremental=True)
    return Snapshot(location="westeurope", properties=properties)


def disk_of(source: str) -> Disk:
    return Disk(location="westeurope", zones=["1"], properties=DiskProperties(creation_data=copy_of(source)))


def make_disk(cloud: AzureEmulation, tmp_path: Path) -> str:
    content = tmp_path / "content"
    content.write_bytes(CONTENT)
    return cloud.make_disk("evidence-7", size_bytes=len(CONTENT), content=content)


def test_a_snapshot_keeps_the_bytes_of_its_moment(cloud: AzureEmulation, sdk: Sdk, tmp_path: Path) -> None:
    disk = make_disk(cloud, tmp_path)
    cloud.attach_by_hand(disk, "worker-2")
    taken = sdk.client.snapshots.begin_create_or_update(GROUP, "snap-1", snapshot_of(disk)).result()
    assert (taken.properties.completion_percent, taken.properties.disk_size_bytes) == (100, 4096)
    cloud.backing(disk).write_bytes(b"later".ljust(4096, b"-"))
    sdk.client.disks.begin_create_or_update(GROUP, "restored-1", disk_of(str(taken.id))).result()
    assert cloud.backing("restored-1").read_bytes() == CONTENT


def test_a_snapshot_is_idempotent_by_name(cloud: AzureEmulation, sdk: Sdk, tmp_path: Path) -> None:
    disk = make_disk(cloud, tmp_path)
    first = sdk.client.snapshots.begin_create_or_update(GROUP, "snap-1", snapshot_of(disk)).result()
    cloud.backing(disk).write_bytes(b"later".ljust(4096, b"-"))
    second = sdk.client.snapshots.begin_create_or_update(GROUP, "snap-1", snapshot_of(disk)).result()
    assert first.properties.unique_id == second.properties.unique_id


def test_the_copy_goes_on_after_the_request_and_cannot_be_used_before(
    cloud: AzureEmulation, sdk: Sdk, tmp_path: Path
) -> None:
    disk = make_disk(cloud, tmp_path)
    cloud.timeline.pace = 0.01
    sdk.client.snapshots.begin_create_or_update(GROUP, "snap-1", snapshot_of(disk)).result()
    cloud.timeline.freeze()
    taken = sdk.client.snapshots.get(GROUP, "snap-1")
    assert (taken.properties.completion_percent or 0) < 100
    assert refused(lambda: sdk.client.disks.begin_create_or_update(GROUP, "restored-1", disk_of(str(taken.id)))) == (
        409,
        "OperationNotAllowed",
    )
    cloud.timeline.advance(1)
    assert sdk.client.snapshots.get(GROUP, "snap-1").properties.completion_percent == 100


def test_a_missing_source_is_said(sdk: Sdk, cloud: AzureEmulation) -> None:
    missing = cloud.make_disk("evidence-7", size_bytes=512).replace("evidence-7", "nothing")
    assert refused(lambda: sdk.client.snapshots.begin_create_or_update(GROUP, "snap-1", snapshot_of(missing))) == (
        404,
        "NotFound",
    )


def test_copying_needs_permission_on_the_source(cloud: AzureEmulation, tmp_path: Path) -> None:
    disk = make_disk(cloud, tmp_path)
    writer = Sdk(cloud, Identity(actions=("Microsoft.Compute/snapshots/write", "Microsoft.Compute/disks/write")))
    with writer.client:
        taking = writer.client.snapshots
        assert refused(lambda: taking.begin_create_or_update(GROUP, "snap-1", snapshot_of(disk))) == (
            403,
            "LinkedAuthorizationFailed",
        )


def test_snapshots_are_listed_and_deleted(cloud: AzureEmulation, sdk: Sdk, tmp_path: Path) -> None:
    disk = make_disk(cloud, tmp_path)
    sdk.client.snapshots.begin_create_or_update(GROUP, "snap-1", snapshot_of(disk)).result()
    assert [taken.name for taken in sdk.client.snapshots.list()] == ["snap-1"]
    for _ in range(2):
        sdk.client.snapshots.begin_delete(GROUP, "snap-1").result()
    assert list(sdk.client.snapshots.list_by_resource_group(GROUP)) == []
