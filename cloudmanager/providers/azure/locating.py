"""Finds the block device of an attached disk. On SCSI, the LUN is all that a guest knows of a disk's identity.

So the LUN comes from Azure just before and just after the device is opened, never from memory; and the size must fit.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

from cloudmanager.core.errors import DeviceError, DeviceMismatch, DeviceNotReady
from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.core.model import Device, Disk, NotAttached
from cloudmanager.providers import _nvme, _scsi
from cloudmanager.providers._block_devices import BlockDevice, BlockDevices
from cloudmanager.providers._waiting import Deadline, TimedOut
from cloudmanager.providers.azure.api import Compute
from cloudmanager.providers.azure.facts import DiskFacts
from cloudmanager.providers.azure.machine_view import MachineView
from cloudmanager.providers.azure.resource_id import ResourceId

_DATA_CONTROLLER = "f8b3781b-"
"""How the VMBus id of the SCSI controller for data disks begins (udev rules of WALinuxAgent: `scsi1`)."""
_ACCELERATOR = "MSFT NVMe Accelerator"
_FIRST_DATA_NSID = 2
"""Namespace 1 is the OS disk."""


class Locating:
    """Looks below one /dev and /sys."""

    def __init__(self, compute: Compute, view: MachineView, machine: ResourceId, devices: BlockDevices) -> None:
        self._compute = compute
        self._view = view
        self._machine = machine
        self._devices = devices
        self._proven: dict[str, int] = {}
        """Key of a disk → the LUN at which it was attached or located last."""

    def found(self, id: ResourceId, lun: int) -> None:
        """It is that disk which is there, and not one that has its name since."""
        self._proven[id.key] = lun

    def locate(self, disk: Disk, id: ResourceId, deadline: Deadline) -> Device | NotAttached:
        """Raises DiskReplaced, DeviceNotReady, DeviceMismatch."""
        lun = self._lun(id)
        if lun is None:
            return NotAttached(f"{self._machine.name} does not have it.")
        block = self._awaited(lun, deadline)
        device = block.as_device()
        found = self._compute.disk(id)
        found.refuse_other(disk)
        _check_size(disk, found, block, device.size_bytes)
        with _opened(device):
            if self._lun(id) != lun:
                raise DeviceMismatch(f"{disk.id} was moved away from LUN {lun} while {device.path} was being opened.")
        self.found(id, lun)
        return replace(device, incarnation=found.unique_id)

    def locate_all(self, ids: Collection[ResourceId]) -> dict[ResourceId, Device]:
        """Asks Azure once. What the machine does not have, or is losing, is left to `locate`.

        So is what was not found at its present LUN before: its name can be another disk's by now.
        """
        machine = self._view.look()
        entries = {id: entry for id in ids if (entry := machine.entry(id)) is not None and not entry.is_leaving}
        proven = {id: entry for id, entry in entries.items() if self._proven.get(id.key) == entry.lun}
        there = {id: self._device_at(entry.lun) for id, entry in proven.items()}
        return {id: device for id, device in there.items() if device is not None}

    def _device_at(self, lun: int) -> Device | None:
        try:
            block = self._at(lun)
            return block.as_device() if block else None
        except DeviceError:
            return None

    def _lun(self, id: ResourceId) -> int | None:
        entry = self._view.look().entry(id)
        if entry is not None and entry.is_leaving:
            raise DeviceNotReady(f"{id.name} is being detached from {self._machine.name}.")
        return entry.lun if entry else None

    def _awaited(self, lun: int, deadline: Deadline) -> BlockDevice:
        try:
            return deadline.wait_for(lambda: self._at(lun))
        except TimedOut:
            raise DeviceNotReady(
                f"Azure has attached the disk at LUN {lun}, and this machine's kernel has shown no such device for "
                f"{deadline.seconds:g} s."
            ) from None

    def _at(self, lun: int) -> BlockDevice | None:
        """The device with a size at a LUN. Raises DeviceMismatch when there are several."""
        found = [block for block in self._devices if _is_at(block, lun)]
        if len(found) > 1:
            names = ", ".join(block.name for block in found)
            raise DeviceMismatch(f"{names} are all at LUN {lun} of this machine: neither is used.")
        return found[0] if found and found[0].size_bytes else None


def _check_size(disk: Disk, found: DiskFacts, block: BlockDevice, size_bytes: int) -> None:
    """The size is a part of the identity, and may have changed since the disk was described."""
    known = found.size_bytes
    if size_bytes in (disk.size_bytes, known):
        return
    raise DeviceMismatch(
        f"{block.node} has {size_bytes} bytes, and {disk.id} has {known}. If that was made larger, let the kernel "
        f"see it: echo 1 > /sys/block/{block.name}/device/rescan.",
        retriable=size_bytes < known,
    )


def _is_at(block: BlockDevice, lun: int) -> bool:
    if _nvme.is_namespace(block):
        return _nvme.model(block).startswith(_ACCELERATOR) and _nvme.nsid(block) == lun + _FIRST_DATA_NSID
    address = _scsi.address(block)
    return address is not None and address.lun == lun and _has_data_controller(block)


def _has_data_controller(block: BlockDevice) -> bool:
    """By the nearest VMBus device above it."""
    for directory in block.parent().parents:
        try:
            return (directory / "device_id").read_text().strip("{}\n ").casefold().startswith(_DATA_CONTROLLER)
        except OSError as error:
            raise_exhausted(error)
            continue
    return False


@contextmanager
def _opened(device: Device) -> Iterator[None]:
    """Raises DeviceNotReady, or DeviceMismatch when what is opened is not what was found."""
    try:
        descriptor = os.open(device.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceNotReady(f"{device.path} cannot be opened: {error.strerror}.") from error
    try:
        if os.fstat(descriptor).st_rdev != device.identity.device:
            raise DeviceMismatch(f"{device.path} became another device while it was being opened.")
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size != device.size_bytes:
            raise DeviceMismatch(f"{device.path} has {size} bytes, and the disk has {device.size_bytes}.")
        yield
    finally:
        os.close(descriptor)
