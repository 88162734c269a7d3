"""Device names of the API, and how a volume shows in the guest."""

import re

from cloudmanager.testing.cloud.ec2.instance_types import Hypervisor
from cloudmanager.testing.cloud.ec2.state import Instance, Volume
from cloudmanager.testing.cloud.hardware import IDENTIFY_BYTES, Hardware, NvmeNamespace, XenDisk

_AMAZON_PCI_VENDOR = 0x1D0F
_NVME_MODEL = "Amazon Elastic Block Store"
_NVME_NAME_OFFSET = 3072
"""Where the controller's identify data has the device name of the attachment: the vendor's part begins there."""
_DEVICE_NAME = re.compile(r"(?:/dev/)?(sd[a-z]|xvd[a-d][a-x]|xvd[b-z])")


def is_device_name(text: str) -> bool:
    """The names that the EC2 user guide lists for HVM instances, and `/dev/xvdb` to `/dev/xvdd`, which work too."""
    return _DEVICE_NAME.fullmatch(text) is not None


def kernel_name(device: str) -> str:
    """The name that a Xen guest gives the device: `/dev/sdf` and `/dev/xvdf` are both `xvdf`."""
    name = device.removeprefix("/dev/")
    return f"xvd{name[2]}" if name.startswith("sd") else name


def xen_number(device: str) -> int:
    """Xen's number of a virtual block device, of the `xvd` kind (xen/docs/man/xen-vbd-interface.7.pandoc)."""
    index = -1
    for letter in kernel_name(device).removeprefix("xvd"):
        index = (index + 1) * 26 + ord(letter) - ord("a")
    return 202 << 8 | index << 4 if index < 16 else 1 << 28 | index << 8


def hardware(volume: Volume, instance: Instance, device: str) -> Hardware:
    if instance.type.hypervisor is Hypervisor.XEN:
        return XenDisk(kernel_name(device), xen_number(device))
    identify = bytearray(IDENTIFY_BYTES)
    identify[_NVME_NAME_OFFSET : _NVME_NAME_OFFSET + 32] = device.encode().ljust(32)
    return NvmeNamespace(_NVME_MODEL, volume.serial, pci_vendor=_AMAZON_PCI_VENDOR, identify_controller=bytes(identify))


def links(volume: Volume, instance: Instance) -> list[str]:
    """What udev makes for an NVMe volume. For a Xen disk it has nothing to go by."""
    if instance.type.hypervisor is Hypervisor.XEN:
        return []
    link = f"disk/by-id/nvme-{_NVME_MODEL.replace(' ', '_')}_{volume.serial}"
    return [link, f"{link}_1", f"{link}-ns-1"]
