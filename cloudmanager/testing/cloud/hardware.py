"""How a plugged disk shows in a guest's /sys: the layouts that the clouds' machines have.

Each layout knows the kernel's naming rule and the attributes that identify a disk. Paths are relative to the root of
the guest's /sys.
"""

import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

IDENTIFY_BYTES = 4096


@dataclass(frozen=True)
class Placement:
    """Where a disk is in the guest: what `Guest` writes."""

    name: str
    """Kernel name: `sdb`, `nvme1n1`, `xvdf`."""
    parent: str
    """Directory of the device that the block device belongs to; `block/NAME/device` leads to it."""
    block: str
    """Directory of the block device itself."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    identity: frozenset[str] = frozenset()
    """Those of `files` that identify a disk."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Further symbolic links: path → path."""
    token: str = ""
    """The text in those files that names the disk: what `Effect.WRONG_IDENTITY` falsifies."""
    sector_bytes: int = 512
    controller: str = ""
    """Name of the character device of the controller, `nvme1`, where there is one."""


class Hardware(Protocol):
    """A disk as a guest sees it, before it has a kernel name."""

    def place(self, taken: Collection[str]) -> Placement:
        """`taken` are the kernel names in use."""


@dataclass(frozen=True)
class ScsiDisk:
    """A SCSI disk (`sdX`): GCE's virtio-scsi, Azure's storvsc."""

    vendor: str
    model: str
    serial: str
    address: tuple[int, int, int, int]
    """Host, channel, target, LUN."""
    controller: str = "pci0000:00/0000:00:03.0/virtio0"
    controller_attributes: Mapping[str, str] = field(default_factory=dict)
    """For example `device_id` of a VMBus controller."""
    page83: bytes = b""
    """The whole VPD page; empty: the serial as a vendor specific designator in ASCII, as GCE and QEMU send."""
    sector_bytes: int = 512
    """Logical ones."""

    def place(self, taken: Collection[str]) -> Placement:
        host, channel, target, lun = self.address
        name = next(letters for letters in map(_sd_name, count()) if letters not in taken)
        address = f"{host}:{channel}:{target}:{lun}"
        controller = f"devices/{self.controller}"
        parent = f"{controller}/host{host}/target{host}:{channel}:{target}/{address}"
        identity = {
            f"{parent}/vpd_pg80": vpd_page(0x80, self.serial.encode()),
            f"{parent}/vpd_pg83": self.page83 or vpd_page(0x83, designator(self.serial)),
        }
        files = {
            f"{parent}/vendor": f"{self.vendor:<8}\n".encode(),
            f"{parent}/model": f"{self.model:<16}\n".encode(),
            f"{parent}/rev": b"1   \n",
            f"{parent}/type": b"0\n",
            **{f"{controller}/{key}": f"{value}\n".encode() for key, value in self.controller_attributes.items()},
            **identity,
        }
        links = {f"bus/scsi/devices/{address}": parent, f"class/scsi_disk/{address}/device": parent}
        block = f"{parent}/block/{name}"
        return Placement(name, parent, block, files, frozenset(identity), links, self.serial, self.sector_bytes)


@dataclass(frozen=True)
class NvmeNamespace:
    """An NVMe namespace (`nvmeXnY`): of a controller of its own (EBS), or of one that all share (GCE, Azure)."""

    model: str
    serial: str
    nsid: int = 1
    controller: int | None = None
    """Number of the shared controller; None: a new one for this namespace."""
    pci_vendor: int = 0
    identify_namespace: bytes = bytes(IDENTIFY_BYTES)
    """Answer of the controller to Identify (06h), CNS 00h."""
    identify_controller: bytes = bytes(IDENTIFY_BYTES)
    """Answer of the controller to Identify (06h), CNS 01h."""
    token: str = ""
    """What names the disk in the identify data, where that is not the serial."""
    sector_bytes: int = 512
    """Logical ones."""

    def place(self, taken: Collection[str]) -> Placement:
        number = self.controller if self.controller is not None else self._free_controller(taken)
        instance = next(n for n in count(1) if f"nvme{number}n{n}" not in taken)
        name = f"nvme{number}n{instance}"
        pci = f"devices/pci0000:00/0000:00:{number + 4:02x}.0"
        parent = f"{pci}/nvme/nvme{number}"
        block = f"{parent}/{name}"
        identity = {
            f"{parent}/serial": f"{self.serial:<20}\n".encode(),
            f"{block}/identify_namespace": self.identify_namespace,
            f"{parent}/identify_controller": self.identify_controller,
        }
        files = {
            f"{pci}/vendor": f"0x{self.pci_vendor:04x}\n".encode(),
            f"{parent}/model": f"{self.model:<40}\n".encode(),
            f"{parent}/cntlid": f"{number}\n".encode(),
            f"{block}/nsid": f"{self.nsid}\n".encode(),
            **identity,
        }
        links = {f"class/nvme/nvme{number}": parent, f"{parent}/device": pci}
        token = self.token or self.serial
        identifying, sectors = frozenset(identity), self.sector_bytes
        return Placement(name, parent, block, files, identifying, links, token, sectors, controller=f"nvme{number}")

    @staticmethod
    def _free_controller(taken: Collection[str]) -> int:
        return next(n for n in count() if not any(name.startswith(f"nvme{n}n") for name in taken))


@dataclass(frozen=True)
class XenDisk:
    """A Xen virtual disk (`xvdX`): the name is its only identity."""

    name: str
    number: int
    """Xen's device number, unique in the guest."""

    def place(self, taken: Collection[str]) -> Placement:
        if self.name in taken:
            raise ValueError(f"the guest has {self.name} already")
        parent = f"devices/vbd-{self.number}"
        files = {
            f"{parent}/devtype": b"vbd\n",
            f"{parent}/nodename": f"device/vbd/{self.number}\n".encode(),
        }
        return Placement(self.name, parent, f"{parent}/block/{self.name}", files)


def vpd_page(page: int, content: bytes) -> bytes:
    """A vital product data page (SPC-4, 7.8): type, page code, length, content."""
    return bytes([0, page]) + len(content).to_bytes(2, "big") + content


def designator(text: str) -> bytes:
    """A vendor specific designation descriptor in ASCII (SPC-4, 7.8.6)."""
    return bytes([0x02, 0x00, 0x00, len(text)]) + text.encode("ascii")


def _sd_name(index: int) -> str:
    """sda … sdz, sdaa …: the kernel's sd_format_disk_name."""
    letters = ""
    while index >= 0:
        letters = string.ascii_lowercase[index % 26] + letters
        index = index // 26 - 1
    return f"sd{letters}"
