"""The Azure provider finds the right block device, or says why it cannot."""

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudmanager.core.errors import AccessDenied, DeviceMismatch, DeviceNotReady
from cloudmanager.core.model import Device, Disk, NotAttached
from cloudmanager.core.plugins import Provider
from cloudmanager.testing.cloud import backing
from cloudmanager.testing.cloud.azure import AzureEmulation, devices
from cloudmanager.testing.cloud.azure.emulation import ATTACH
from cloudmanager.testing.cloud.azure.state import Controller
from cloudmanager.testing.cloud.calls import Call
from cloudmanager.testing.cloud.faults import Effect, Fault
from cloudmanager.testing.cloud.guest import Guest
from cloudmanager.testing.cloud.hardware import Hardware, NvmeNamespace, ScsiDisk
from tests.providers.azure.clients import attach, describe, make_provider

KIB = 1024


@pytest.fixture(params=list(Controller))
def located(request: pytest.FixtureRequest, cloud: AzureEmulation, identity: None) -> Provider:
    """A provider on a machine with either controller, that has a disk."""
    cloud.make_instance("worker-9", controller=request.param)
    cloud.make_disk("evidence-7", size_bytes=64 * KIB)
    cloud.backing("evidence-7").write_bytes(os.urandom(64 * KIB))
    return make_provider(cloud, "worker-9", **QUICK)


QUICK: dict[str, Any] = {"device_timeout_seconds": 2, "poll_seconds": 0.05, "look_seconds": 0, "retry_attempts": 1}


def bytes_of(provider: Provider, native: str) -> bytes:
    device = provider.locate(describe(provider, native))
    assert isinstance(device, Device)
    return Path(device.path).read_bytes()


@pytest.mark.parametrize(
    "effect", [Effect.NO_LINK, Effect.STALE_LINK, Effect.SWAPPED_LINK, Effect.PARTITION_LINK, Effect.CONTROLLER_LINK]
)
def test_links_are_not_believed(cloud: AzureEmulation, located: Provider, effect: Effect) -> None:
    cloud.faults.add(Fault("guest.plug", effect))
    attach(located, "evidence-7")
    assert bytes_of(located, "evidence-7") == cloud.backing("evidence-7").read_bytes()


def test_lun_0_is_not_the_os_disk(cloud: AzureEmulation, located: Provider) -> None:
    cloud.attach_by_hand("evidence-7", "worker-9", slot="0")
    assert bytes_of(located, "evidence-7") == cloud.backing("evidence-7").read_bytes()


def test_a_disk_that_moved_to_another_lun_is_found_there(cloud: AzureEmulation, located: Provider) -> None:
    disk = attach(located, "evidence-7").disk
    cloud.make_disk("other-1", size_bytes=64 * KIB)
    cloud.detach_by_hand("evidence-7", "worker-9")
    cloud.attach_by_hand("other-1", "worker-9", slot="0")
    cloud.attach_by_hand("evidence-7", "worker-9", slot="7")
    assert bytes_of(located, "evidence-7") == cloud.backing("evidence-7").read_bytes()
    cloud.detach_by_hand("evidence-7", "worker-9")
    assert isinstance(located.locate(disk), NotAttached)


def test_a_device_that_does_not_appear_is_waited_for_and_then_not_ready(
    cloud: AzureEmulation, located: Provider
) -> None:
    cloud.faults.add(Fault("guest.plug", Effect.HANG))
    disk = attach(located, "evidence-7").disk
    hasty = make_provider(cloud, "worker-9", **{**QUICK, "device_timeout_seconds": 0.2})
    with pytest.raises(DeviceNotReady, match="LUN 0"):
        hasty.locate(disk)
    cloud.timeline.release()
    assert isinstance(located.locate(disk), Device)


def test_a_device_that_appears_late_is_found(cloud: AzureEmulation, located: Provider) -> None:
    cloud.faults.add(Fault("guest.plug", Effect.LATE, seconds=0.15))
    assert isinstance(located.locate(attach(located, "evidence-7").disk), Device)


def test_a_device_of_another_size_is_another_disk(cloud: AzureEmulation, located: Provider) -> None:
    cloud.attach_by_hand("evidence-7", "worker-9")
    cloud.state.disk(cloud.resource("evidence-7", "disks")).size_bytes += 512
    with pytest.raises(DeviceMismatch, match="65536 bytes"):
        located.locate(describe(located, "evidence-7"))


def test_a_disk_whose_lun_is_given_away_while_its_device_is_opened_is_refused(
    cloud: AzureEmulation, located: Provider
) -> None:
    disk = attach(located, "evidence-7").disk
    located.locate(disk)  # from now on Azure is asked before and after
    cloud.make_disk("other-1", size_bytes=64 * KIB)

    def swap(_: Call) -> None:
        end()
        cloud.detach_by_hand("evidence-7", "worker-9")
        cloud.attach_by_hand("other-1", "worker-9", slot="0")
        cloud.attach_by_hand("evidence-7", "worker-9", slot="1")

    end = cloud.calls.watch(swap)
    with pytest.raises(DeviceMismatch, match="moved away from LUN 0"):
        located.locate(disk)


def test_two_namespaces_at_one_lun_cannot_be_told_apart(cloud: AzureEmulation, identity: None) -> None:
    guest = cloud.make_instance("worker-9", controller=Controller.NVME)
    cloud.make_disk("evidence-7", size_bytes=64 * KIB)
    provider = make_provider(cloud, "worker-9")
    disk = attach(provider, "evidence-7").disk
    guest.plug(
        "ghost", backing.make(cloud.directory / "ghost.img", 64 * KIB), devices.data_disk(Controller.NVME, 0, "ghost")
    )
    with pytest.raises(DeviceMismatch, match="neither is used"):
        provider.locate(disk)


def test_a_disk_that_is_being_detached_has_no_device_for_us(cloud: AzureEmulation, located: Provider) -> None:
    disk = attach(located, "evidence-7").disk
    machine = cloud.state.machine(cloud.resource("worker-9", "virtualMachines"))
    machine.data_disks[0].to_be_detached = True
    with pytest.raises(DeviceNotReady, match="being detached"):
        located.locate(disk)


def test_a_controller_that_cannot_be_told_has_no_data_disks(cloud: AzureEmulation, identity: None) -> None:
    guest = cloud.make_instance("worker-9")
    cloud.make_disk("evidence-7", size_bytes=64 * KIB)
    provider = make_provider(cloud, "worker-9", **{**QUICK, "device_timeout_seconds": 0.2})
    disk = attach(provider, "evidence-7").disk
    for file in guest.sys.rglob("device_id"):
        file.unlink()
    with pytest.raises(DeviceNotReady):
        provider.locate(disk)


def test_not_attached_is_only_said_when_azure_says_so(cloud: AzureEmulation, located: Provider) -> None:
    disk = describe(located, "evidence-7")
    assert isinstance(located.locate(disk), NotAttached)
    cloud.faults.add(Fault("VirtualMachines_Get", Effect.ERROR, code="AuthorizationFailed"))
    with pytest.raises(AccessDenied):
        located.locate(disk)


def test_locating_changes_nothing(cloud: AzureEmulation, located: Provider) -> None:
    disk = attach(located, "evidence-7").disk
    before = sorted(path for path in cloud.guests["worker-9"].root.rglob("*"))
    cloud.calls.clear()
    located.locate(disk)
    assert cloud.calls.mutations() == []
    assert sorted(path for path in cloud.guests["worker-9"].root.rglob("*")) == before
    assert ATTACH not in {call.operation for call in cloud.calls}


# What a guest shows


@pytest.mark.parametrize("begin", ["f8b3781c", "f8b3781d"])
def test_the_other_controllers_for_data_disks_count(cloud: AzureEmulation, identity: None, begin: str) -> None:
    """udev rules of azure-vm-utils."""
    guest, disk, provider = attached_on(cloud, Controller.SCSI)
    device = devices.data_disk(Controller.SCSI, 0, "other-controller")
    assert isinstance(device, ScsiDisk)
    other = device.controller.replace("f8b3781b", begin)
    attributes = {name: value.replace("f8b3781b", begin) for name, value in device.controller_attributes.items()}
    show_as(cloud, guest, disk, replace(device, controller=other, controller_attributes=attributes))
    assert isinstance(provider.locate(disk), Device)


def test_a_namespace_that_says_its_lun_is_believed(cloud: AzureEmulation, identity: None) -> None:
    guest, disk, provider = attached_on(cloud, Controller.NVME)
    show_as(cloud, guest, disk, namespace(nsid=9, says=b"type=data,lun=0"))
    assert isinstance(provider.locate(disk), Device)


@pytest.mark.parametrize("says", [b"type=data,lun=1", b"type=local,index=1", b"type=os", b"type=data"])
def test_a_namespace_that_says_that_it_is_another_is_not_taken(
    cloud: AzureEmulation, identity: None, says: bytes
) -> None:
    """Though its number is that of the LUN."""
    guest, disk, provider = attached_on(cloud, Controller.NVME)
    show_as(cloud, guest, disk, namespace(nsid=2, says=says))
    with pytest.raises(DeviceNotReady):
        provider.locate(disk)


@pytest.mark.parametrize("model", ["MSFT NVMe Accelerator v2.0", "MSFT NVMe Accelerator v1.0 beta"])
def test_the_model_of_the_controller_is_matched_exactly(cloud: AzureEmulation, identity: None, model: str) -> None:
    guest, disk, provider = attached_on(cloud, Controller.NVME)
    show_as(cloud, guest, disk, replace(namespace(nsid=2), model=model))
    with pytest.raises(DeviceNotReady):
        provider.locate(disk)


def test_the_kernel_is_asked_to_rescan_while_a_device_is_missing(cloud: AzureEmulation, identity: None) -> None:
    """The rescan of all LUNs, and that of the disk's own: Linux does the first only when LUN 0 answers."""
    cloud.faults.add(Fault("guest.plug", Effect.HANG, target="*evidence-7"))
    guest, disk, provider = attached_on(cloud, Controller.SCSI)
    device = devices.data_disk(Controller.SCSI, 0, "any")
    assert isinstance(device, ScsiDisk)
    controller = guest.sys / "devices" / device.controller
    host = controller / "host1" / "scsi_host" / "host1"
    host.mkdir(parents=True)
    for name, value in device.controller_attributes.items():
        (controller / name).write_text(f"{value}\n")
    os.mkfifo(host / "scan")
    (guest.sys / "class" / "scsi_host").mkdir(parents=True)
    (guest.sys / "class" / "scsi_host" / "host1").symlink_to(host)
    asked: list[str] = []

    def kernel() -> None:
        """Lets the device appear once its LUN is scanned."""
        while "- - 0" not in asked:
            asked.append((host / "scan").read_text())
        cloud.timeline.release()
        descriptor = os.open(host / "scan", os.O_RDWR | os.O_NONBLOCK)  # so that no writer waits for a reader
        found.wait(60)
        os.close(descriptor)

    found = threading.Event()
    thread = threading.Thread(target=kernel, daemon=True)
    thread.start()
    try:
        assert isinstance(provider.locate(disk), Device)
    finally:
        found.set()
        thread.join(60)
    assert "- - -" in "".join(asked)


def attached_on(cloud: AzureEmulation, controller: Controller) -> tuple[Guest, Disk, Provider]:
    """A disk at LUN 0 of a new machine."""
    guest = cloud.make_instance("worker-9", controller=controller)
    cloud.make_disk("evidence-7", size_bytes=64 * KIB)
    provider = make_provider(cloud, "worker-9", **QUICK)
    return guest, attach(provider, "evidence-7").disk, provider


def show_as(cloud: AzureEmulation, guest: Guest, disk: Disk, hardware: Hardware) -> None:
    """The disk's device, as other hardware shows it."""
    key = next(key for key in guest.plugged if "evidence-7" in key)
    guest.unplug(key)
    guest.plug(key, cloud.backing("evidence-7"), hardware)


def namespace(nsid: int, says: bytes = b"") -> NvmeNamespace:
    device = devices.data_disk(Controller.NVME, nsid - 2, "any")
    assert isinstance(device, NvmeNamespace)
    return replace(device, identify_namespace=(bytes(384) + says).ljust(4096, b"\0"))
