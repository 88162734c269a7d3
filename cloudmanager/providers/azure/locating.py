"""Finds the block device of an attached disk. On SCSI, the LUN is all that a guest knows of a disk's identity.

So the LUN comes from Azure just before and just after the device is opened, never from memory; and the size must fit.
"""

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cloudmanager.core.errors import DeviceError, DeviceMismatch, DeviceNotReady
from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.core.model import Device, Disk, NotAttached
from cloudmanager.providers import _nvme, _scsi
from cloudmanager.providers._block_devices import BlockDevice, BlockDevices
from cloudmanager.providers._waiting import Deadline, TimedOut, wait_for
from cloudmanager.providers.azure.api import Compute
from cloudmanager.providers.azure.facts import DiskFacts, MachineFacts
from cloudmanager.providers.azure.machine_view import MachineView
from cloudmanager.providers.azure.resource_id import ResourceId

_DATA_CONTROLLERS = ("f8b3781b-", "f8b3781c-", "f8b3781d-")
"""How the VMBus ids of the SCSI controllers for data disks begin (udev rules of azure-vm-utils)."""
_ACCELERATOR = "MSFT NVMe Accelerator v1.0"
_FIRST_DATA_NSID = 2
"""Namespace 1 is the OS disk."""
_VENDOR_DATA_OFFSET = 384
"""In the answer to Identify Namespace, where newer machines put `type=data,lun=3` (azure-nvme-id of azure-vm-utils)."""
_LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class _Proven:
    """Where a disk was found last: as long as the kernel has the same device there, it is the same disk."""

    lun: int
    stamp: str = ""
    """Of the device; empty: it was attached there, and not looked for yet."""
    facts: DiskFacts | None = None
    """Of the disk when it was found there: while it is attached, no other disk can get its name."""


class Locating:
    """Looks below one /dev and /sys."""

    def __init__(self, compute: Compute, view: MachineView, machine: ResourceId, devices: BlockDevices) -> None:
        self._compute = compute
        self._view = view
        self._machine = machine
        self._devices = devices
        self._proven: dict[str, _Proven] = {}
        """By the key of a disk."""
        self._glimpsed: dict[str, tuple[str, float]] = {}
        """Stamps of devices, and when they were seen on the monotonic clock."""

    def glimpse(self, id: ResourceId, lun: int) -> None:
        """An attach has ended: a device that is there already need not be looked for between two looks at Azure."""
        block, device = self._device_at(lun)
        if block is not None and device is not None:
            self._glimpsed[id.key] = (block.stamp, time.monotonic())

    def attached(self, id: ResourceId, lun: int) -> None:
        """It is that disk which is there, and not one that has its name since."""
        self._proven[id.key] = _Proven(lun)

    def locate(self, disk: Disk, id: ResourceId, deadline: Deadline, known: DiskFacts | None) -> Device | NotAttached:
        """`known`: what Azure has said of the disk since it was attached, if that was a moment ago.

        Raises DiskReplaced, DeviceNotReady, DeviceMismatch.
        """
        if (unchanged := self._unchanged(disk, id)) is not None:
            return unchanged
        if known is not None:
            with suppress(DeviceMismatch):  # it was attached a moment ago, and may have been moved since
                return self._locate(disk, id, deadline, known, self._view.recent_seconds)
        return self._locate(disk, id, deadline, known, 0.0)

    def _unchanged(self, disk: Disk, id: ResourceId) -> Device | None:
        """The device where the disk was found before, if the kernel has had no other one there since."""
        proven, machine = self._proven.get(id.key), self._view.latest(self._view.look_seconds)
        entry = machine.entry(id) if machine else None
        if proven is None or proven.facts is None or entry is None or entry.is_leaving or entry.lun != proven.lun:
            return None
        block, device = self._device_at(proven.lun)
        if block is None or device is None or block.stamp != proven.stamp:
            return None
        proven.facts.refuse_other(disk)
        return replace(device, incarnation=proven.facts.unique_id)

    def _locate(
        self, disk: Disk, id: ResourceId, deadline: Deadline, known: DiskFacts | None, max_age: float
    ) -> Device | NotAttached:
        lun = self._lun(self._view.look(max_age), id)
        if lun is None:
            return NotAttached(f"{self._machine.name} does not have it.")
        block = self._awaited(lun, deadline)
        device, stamp = block.as_device(), block.stamp
        glimpsed, found_at = self._glimpsed.pop(id.key, ("", 0.0))
        if glimpsed != stamp:
            found_at = time.monotonic()
        found = known or self._compute.disk(id)
        found.refuse_other(disk)
        _check_size(disk, found, block, device.size_bytes)
        with _opened(device):
            is_moved = self._lun(self._view.look(time.monotonic() - found_at), id) != lun
            if is_moved or block.stamp != stamp:
                raise DeviceMismatch(f"{disk.id} was moved away from LUN {lun} while {device.path} was being opened.")
        self._proven[id.key] = _Proven(lun, stamp, found)
        return replace(device, incarnation=found.unique_id)

    def locate_all(self, ids: Collection[ResourceId]) -> dict[ResourceId, Device]:
        """Asks Azure once, and only when its last description is old, or when a device is not the one it was.

        What the machine does not have, or is losing, is left to `locate`. So is what was not found at its present LUN
        before: its name can be another disk's by now.
        """
        located = self._located(ids, self._view.look(self._view.look_seconds))
        if len(located) < len(ids):
            located = self._located(ids, self._view.look())
        return located

    def _located(self, ids: Collection[ResourceId], machine: MachineFacts) -> dict[ResourceId, Device]:
        found: dict[ResourceId, Device] = {}
        for id in ids:
            entry, proven = machine.entry(id), self._proven.get(id.key)
            if entry is None or entry.is_leaving or proven is None or proven.lun != entry.lun:
                continue
            block, device = self._device_at(entry.lun)
            if block is None or device is None or proven.stamp not in ("", block.stamp):
                continue
            self._proven[id.key] = replace(proven, stamp=block.stamp)
            found[id] = device
        return found

    def _device_at(self, lun: int) -> tuple[BlockDevice | None, Device | None]:
        try:
            block = self._at(lun)
            return block, block.as_device() if block else None
        except DeviceError:
            return None, None

    def _lun(self, machine: MachineFacts, id: ResourceId) -> int | None:
        entry = machine.entry(id)
        if entry is not None and entry.is_leaving:
            raise DeviceNotReady(f"{id.name} is being detached from {self._machine.name}.")
        return entry.lun if entry else None

    def _awaited(self, lun: int, deadline: Deadline) -> BlockDevice:
        """The device at a LUN. The kernel is asked to look for it as long as it is missing."""

        def look() -> BlockDevice | None:
            block = self._at(lun)
            if block is None:
                _scsi.rescan(self._devices.sys_root, _is_of_data_controller, lun)
                block = self._at(lun)
            return block

        try:
            return wait_for(look, timeout=deadline.left, interval=_LOOK_SECONDS, first=0.01)
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
        return _nvme.model(block) == _ACCELERATOR and _nvme_lun(block) == lun
    address = _scsi.address(block)
    return address is not None and address.lun == lun and _is_of_data_controller(block.parent())


def _nvme_lun(block: BlockDevice) -> int | None:
    """By what the namespace says of itself; by its number where it says nothing."""
    text = _nvme.identify_namespace(block)[_VENDOR_DATA_OFFSET:].partition(b"\0")[0].decode("ascii", "replace")
    said = dict(pair.partition("=")[::2] for pair in text.strip().split(",") if "=" in pair)
    if "type" in said:
        is_data = said["type"] == "data" and said.get("lun", "").isdecimal()
        return int(said["lun"]) if is_data else None
    nsid = _nvme.nsid(block)
    return None if nsid is None else nsid - _FIRST_DATA_NSID


def _is_of_data_controller(directory: Path) -> bool:
    """By the nearest VMBus device above a directory of sysfs."""
    for parent in directory.parents:
        try:
            return (parent / "device_id").read_text().strip("{}\n ").casefold().startswith(_DATA_CONTROLLERS)
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
