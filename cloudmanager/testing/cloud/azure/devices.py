"""How Azure's disks show in a Linux guest: storvsc's VMBus controllers, or the NVMe accelerator.

The identifiers of the controllers are those that the udev rules of WALinuxAgent and azure-vm-utils look for.
"""

import hashlib
from dataclasses import replace

from cloudmanager.testing.cloud.azure.state import Controller
from cloudmanager.testing.cloud.hardware import Hardware, NvmeNamespace, ScsiDisk, vpd_page

_SYSTEM_CONTROLLER = "f8b3781a-1e82-4818-a1c3-63d806ec15bb"
_DATA_CONTROLLER = "f8b3781b-1e82-4818-a1c3-63d806ec15bb"
_SCSI_CLASS = "{ba6163d9-04a1-4d29-b605-72e2ffb1dc7f}"
_VMBUS = "LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/_VMBUS:00"
_ACCELERATOR = "MSFT NVMe Accelerator v1.0"
_MICROSOFT_PCI = 0x1414
_OS_NSID = 1
_FIRST_DATA_NSID = 2


def data_disk(controller: Controller, lun: int, key: str, sector_bytes: int = 512) -> Hardware:
    """`key` makes an identity up: as in Azure, it has nothing to do with the disk's id."""
    if controller is Controller.NVME:
        return replace(_namespace(_FIRST_DATA_NSID + lun), sector_bytes=sector_bytes)
    return replace(_scsi(_DATA_CONTROLLER, 1, lun, key), sector_bytes=sector_bytes)


def system_disk(controller: Controller, lun: int, key: str) -> Hardware:
    """LUN 0 is the OS disk; LUN 1 the temporary one, which NVMe machines have elsewhere."""
    if controller is Controller.NVME:
        return _namespace(_OS_NSID)
    return _scsi(_SYSTEM_CONTROLLER, 0, lun, key)


def data_links(lun: int) -> tuple[str, ...]:
    """Of WALinuxAgent, and of azure-vm-utils."""
    return (f"disk/azure/scsi1/lun{lun}", f"disk/azure/data/by-lun/{lun}")


def _namespace(nsid: int) -> NvmeNamespace:
    return NvmeNamespace(_ACCELERATOR, "SN: 00001", nsid=nsid, controller=0, pci_vendor=_MICROSOFT_PCI)


def _scsi(controller: str, host: int, lun: int, key: str) -> ScsiDisk:
    naa = bytes([0x60]) + hashlib.sha256(key.encode()).digest()[:15]
    return ScsiDisk(
        vendor="Msft",
        model="Virtual Disk",
        serial=naa.hex(),
        address=(host, 0, 0, lun),
        controller=f"{_VMBUS}/{controller}",
        controller_attributes={"device_id": f"{{{controller}}}", "class_id": _SCSI_CLASS},
        page83=vpd_page(0x83, bytes([0x01, 0x03, 0x00, len(naa)]) + naa),
    )
