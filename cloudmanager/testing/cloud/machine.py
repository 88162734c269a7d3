"""A QEMU virtual machine into which disks are hot-plugged, as clouds do it."""

import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.testing.cloud.hardware import Hardware, NvmeNamespace, ScsiDisk
from cloudmanager.testing.cloud.qmp import Qmp, QmpError

_SCSI_BUS = "hotplug-scsi"
NVME_SLOTS = tuple(f"hotplug-slot-{number}" for number in range(1, 9))
_LONGEST_NVME_SERIAL = 20
_LONGEST_SCSI_SERIAL = 36
"""QEMU cuts the rest off page 0x80; page 0x83 has all of it."""


def hotplug_arguments() -> list[str]:
    """What the command line of `qemu-system-x86_64 -M q35` must have: a SCSI controller, and free PCIe slots."""
    slots = [f"pcie-root-port,id={slot},chassis={number}" for number, slot in enumerate(NVME_SLOTS, 1)]
    devices = [f"virtio-scsi-pci,id={_SCSI_BUS}", *slots]
    return [word for device in devices for word in ("-device", device)]


@dataclass(frozen=True)
class _Plugged:
    name: str
    """QEMU's, of the device and of its bytes."""
    slot: str = ""
    """Of an NVMe controller."""


class Machine:
    """Plugs files in as disks, and out again, through a monitor. Thread-safe.

    What QEMU's devices cannot say of themselves stays QEMU's own: an NVMe controller has the PCI vendor 0x1b36 and the
    model `QEMU NVMe Ctrl`, and no data of a cloud in its identify pages; there is no VMBus and no Xen bus.
    """

    def __init__(self, monitor: Qmp) -> None:
        """`monitor` is of a QEMU that was started with `hotplug_arguments`."""
        self._monitor = monitor
        self._names = (f"hotplugged-{number}" for number in itertools.count(1))
        self._plugged: dict[str, _Plugged] = {}
        self._lock = threading.Lock()

    @property
    def plugged(self) -> frozenset[str]:
        """The keys of the disks that are in the machine."""
        with self._lock:
            return frozenset(self._plugged)

    def plug(self, key: str, file: Path, hardware: Hardware, *, read_only: bool = False) -> None:
        """Raises ValueError for hardware that QEMU has not, and when all slots are taken; QmpError."""
        with self._lock:
            name = next(self._names)
            slot = self._free_slot() if isinstance(hardware, NvmeNamespace) else ""
            device = _device(hardware, slot)
            backend = {"driver": "file", "node-name": name, "filename": str(file), "read-only": read_only}
            self._monitor.execute("blockdev-add", backend)
            try:
                self._monitor.execute("device_add", {"id": name, "drive": name, **device})
            except QmpError:
                self._monitor.execute("blockdev-del", {"node-name": name})
                raise
            self._plugged[key] = _Plugged(name, slot)

    def unplug(self, key: str) -> None:
        """Returns when QEMU has taken the device out. Raises QmpError.

        The operating system ejects an NVMe controller, whoever uses it; a SCSI disk it finds gone, a moment later.
        """
        with self._lock:
            plugged = self._plugged[key]
            self._monitor.execute("device_del", {"id": plugged.name})
            self._monitor.wait_for("DEVICE_DELETED", device=plugged.name)
            self._monitor.execute("blockdev-del", {"node-name": plugged.name})
            del self._plugged[key]

    def _free_slot(self) -> str:
        taken = {plugged.slot for plugged in self._plugged.values()}
        try:
            return next(slot for slot in NVME_SLOTS if slot not in taken)
        except StopIteration:
            raise ValueError(f"all {len(NVME_SLOTS)} slots of the machine are taken") from None


def _device(hardware: Hardware, slot: str) -> Mapping[str, str]:
    """The properties of QEMU's device."""
    match hardware:
        case ScsiDisk(page83=b"") if not hardware.controller_attributes:
            return {
                **_sectors(hardware.sector_bytes),
                "driver": "scsi-hd",
                "bus": f"{_SCSI_BUS}.0",
                "vendor": hardware.vendor,
                "product": hardware.model,
                "serial": hardware.serial[:_LONGEST_SCSI_SERIAL],
                "device_id": hardware.serial,
            }
        case NvmeNamespace(controller=None, nsid=1) if len(hardware.serial) <= _LONGEST_NVME_SERIAL:
            return {"driver": "nvme", "bus": slot, "serial": hardware.serial, **_sectors(hardware.sector_bytes)}
    raise ValueError(f"QEMU has no device like this: {hardware}")


def _sectors(sector_bytes: int) -> Mapping[str, str]:
    return {"logical_block_size": str(sector_bytes), "physical_block_size": str(max(512, sector_bytes))}
