"""The device is found by what it says of itself: NVMe serial numbers, and Xen's slot numbers as far as they go."""

import os
import shutil
import time
from pathlib import Path

import pytest

from cloudmanager.core.errors import AccessDenied, DeviceError, DeviceMismatch, DeviceNotReady
from cloudmanager.core.model import Device, Disk, NotAttached
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud.ec2 import Emulation
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.providers.aws.clients import actions, attach, describe, make_provider


def attached(cloud: Emulation, provider: Provider, name: str = "evidence-7") -> Disk:
    volume = cloud.make_disk(name)
    with cloud.backing(volume).open("r+b") as file:
        file.write(volume.encode())
    attach(provider, volume)
    return describe(provider, volume)


def first_bytes(device: Device | NotAttached) -> str:
    assert isinstance(device, Device)
    with Path(device.path).open("rb") as file:
        return file.read(21).decode()


@pytest.fixture
def xen(cloud: Emulation, credentials: None) -> Provider:
    cloud.make_instance("worker-1", type_name="m4.large")
    return make_provider(cloud)


@pytest.mark.parametrize(
    "effect",
    [Effect.NO_LINK, Effect.STALE_LINK, Effect.SWAPPED_LINK, Effect.PARTITION_LINK, Effect.CONTROLLER_LINK],
)
def test_links_are_not_believed(cloud: Emulation, provider: Provider, effect: Effect) -> None:
    attached(cloud, provider, "other")
    cloud.faults.add(Fault("guest.plug", effect))
    disk = attached(cloud, provider)
    assert first_bytes(provider.locate(disk)) == disk.id.native


@pytest.mark.parametrize("effect", [Effect.NO_IDENTITY, Effect.WRONG_IDENTITY])
def test_a_device_without_its_identity_is_not_taken(cloud: Emulation, provider: Provider, effect: Effect) -> None:
    cloud.faults.add(Fault("guest.plug", effect))
    disk = attached(cloud, provider)
    with pytest.raises(DeviceNotReady, match="shows no ready device for it"):
        provider.locate(disk)


def test_a_device_is_identified_without_asking_ec2(cloud: Emulation, provider: Provider) -> None:
    disk = attached(cloud, provider)
    cloud.calls.clear()
    provider.locate(disk)
    assert actions(cloud) == []


def test_a_late_device_is_waited_for(cloud: Emulation, provider: Provider) -> None:
    cloud.faults.add(Fault("guest.plug", Effect.LATE, seconds=0.3))
    disk = attached(cloud, provider)
    assert first_bytes(provider.locate(disk)) == disk.id.native


@pytest.mark.parametrize("type_name", ["m5.large", "m4.large"], ids=["nitro", "xen"])
def test_a_device_without_a_size_is_waited_for(
    cloud: Emulation, credentials: None, type_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel shows a disk, with its identity, a moment before it has its size."""
    cloud.make_instance("worker-1", type_name=type_name)
    provider = make_provider(cloud)
    disk = attached(cloud, provider)
    guest = cloud.guests["worker-1"]
    size = guest.sys / "block" / guest.plugged[disk.id.native].name / "size"
    real = size.readlink()
    size.unlink()
    size.write_text("0\n")

    def has_its_size(_seconds: float) -> None:
        size.unlink()
        size.symlink_to(real)

    with monkeypatch.context() as patched:  # what ends the test pauses too
        patched.setattr(time, "sleep", has_its_size)
        assert first_bytes(provider.locate(disk)) == disk.id.native


def test_a_device_that_does_not_come_is_not_ready(cloud: Emulation, provider: Provider) -> None:
    cloud.faults.add(Fault("guest.plug", Effect.HANG))
    disk = attached(cloud, provider)
    with pytest.raises(DeviceNotReady, match=r"after 0\.6 s"):
        provider.locate(disk)


def test_a_volume_that_is_not_attached_is_told_so(cloud: Emulation, provider: Provider) -> None:
    assert isinstance(provider.locate(describe(provider, cloud.make_disk("evidence-7"))), NotAttached)


def test_a_deleted_volume_is_not_attached(cloud: Emulation, provider: Provider) -> None:
    disk = describe(provider, cloud.make_disk("evidence-7"))
    cloud.delete_disk(disk.id.native)
    assert isinstance(provider.locate(disk), NotAttached)


def test_a_volume_of_another_region_is_not_attached(cloud: Emulation, node: str, credentials: None) -> None:
    provider = make_provider(cloud, regions=["us-east-1", "eu-west-1"])
    disk = describe(provider, cloud.make_disk("evidence-7", location="eu-west-1a"))
    assert isinstance(provider.locate(disk), NotAttached)


def test_a_failed_look_is_not_taken_for_absence(cloud: Emulation, provider: Provider) -> None:
    disk = describe(provider, cloud.make_disk("evidence-7"))
    cloud.denied.add("DescribeVolumes")
    with pytest.raises(AccessDenied):
        provider.locate(disk)


def test_a_pending_attach_is_not_ready(cloud: Emulation, provider: Provider) -> None:
    cloud.faults.add(Fault("AttachVolume", Effect.HANG))
    volume = cloud.make_disk("evidence-7")
    with pytest.raises(Exception, match="has not attached"):
        attach(provider, volume)
    with pytest.raises(DeviceNotReady, match="still attaching"):
        provider.locate(describe(provider, volume))


def test_two_controllers_with_one_serial_number_are_a_mismatch(cloud: Emulation, provider: Provider) -> None:
    disk, other = attached(cloud, provider), attached(cloud, provider, "other")
    guest = cloud.guests["worker-1"]
    serial = guest.sys / "block" / guest.plugged[other.id.native].name / "device/serial"
    serial.write_text(disk.id.native.replace("-", ""))
    with pytest.raises(DeviceMismatch, match="all say that they are"):
        provider.locate(disk)


def test_a_controller_that_is_not_amazons_is_not_taken(cloud: Emulation, provider: Provider) -> None:
    disk = attached(cloud, provider)
    guest = cloud.guests["worker-1"]
    (guest.sys / "class/nvme" / guest.plugged[disk.id.native].placement.controller / "device/vendor").write_text(
        "0x8086\n"
    )
    with pytest.raises(DeviceNotReady):
        provider.locate(disk)


def test_a_node_of_another_device_is_a_mismatch(cloud: Emulation, provider: Provider) -> None:
    disk, other = attached(cloud, provider), attached(cloud, provider, "other")
    plugged = cloud.guests["worker-1"].plugged
    node = plugged[disk.id.native].node
    node.unlink()
    os.mknod(node, 0o600 | 0o060000, plugged[other.id.native].node.stat().st_rdev)
    with pytest.raises(DeviceMismatch):
        provider.locate(disk)


def test_a_volume_attached_by_hand_is_located_on_nitro_whatever_its_name(cloud: Emulation, provider: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(volume, "worker-1", slot="/dev/sdf")
    assert isinstance(provider.locate(describe(provider, volume)), Device)


def test_xen_shows_the_device_of_the_slot(cloud: Emulation, xen: Provider) -> None:
    disk, other = attached(cloud, xen), attached(cloud, xen, "other")
    assert first_bytes(xen.locate(disk)) == disk.id.native
    assert first_bytes(xen.locate(other)) == other.id.native


def test_a_name_of_the_sd_kind_is_not_certain_on_xen(cloud: Emulation, xen: Provider) -> None:
    volume = cloud.make_disk("evidence-7")
    cloud.attach_by_hand(volume, "worker-1", slot="/dev/sdf")
    with pytest.raises(DeviceMismatch, match="detach it, and let cloudmanager attach it"):
        xen.locate(describe(xen, volume))


def test_a_device_of_another_size_is_a_mismatch_on_xen(cloud: Emulation, xen: Provider) -> None:
    disk = attached(cloud, xen)
    cloud.volume(disk.id.native).size_gib = 2
    with pytest.raises(DeviceMismatch, match="has 1073741824 bytes"):
        xen.locate(disk)


def test_on_xen_an_attachment_that_changes_while_it_is_looked_at_is_not_ready(cloud: Emulation, xen: Provider) -> None:
    disk = attached(cloud, xen)
    cloud.faults.add(Fault("DescribeVolumes", Effect.STALE))
    volume = disk.id.native
    slot = cloud.volume(volume).attachments[0].device
    cloud.detach_by_hand(volume, "worker-1")
    cloud.attach_by_hand(cloud.make_disk("intruder"), "worker-1", slot=slot)
    with pytest.raises(DeviceNotReady, match="changes at this moment"):
        xen.locate(disk)


def test_a_xen_device_under_another_number_is_not_taken(cloud: Emulation, xen: Provider) -> None:
    disk = attached(cloud, xen)
    plugged = cloud.guests["worker-1"].plugged[disk.id.native]
    sys = cloud.guests["worker-1"].sys
    moved = sys / "devices/vbd-51728"
    shutil.copytree(sys / plugged.placement.parent, moved, symlinks=True)
    (sys / "block" / plugged.name).unlink()
    (sys / "block" / plugged.name).symlink_to(moved / "block" / plugged.name)
    with pytest.raises(DeviceError):
        xen.locate(disk)
