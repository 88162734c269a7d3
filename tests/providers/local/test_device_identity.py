"""What makes a disk that disk. Hardware that this machine lacks is written down as sysfs shows it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudmanager.core.errors import DiskNotFound, InvalidDiskId
from cloudmanager.core.model import Access
from cloudmanager.providers.local import LocalProvider
from cloudmanager.providers.local.roots import Roots
from cloudmanager.providers.local.settings import LocalSettings
from tests.providers.local.conftest import disk_id, found

PCI = "devices/pci0000:00/0000:00"


@dataclass
class Machine:
    """A /sys and a /dev with devices whose numbers no driver has."""

    root: Path
    minor: int = 0

    @property
    def roots(self) -> Roots:
        return Roots(sys=self.root / "sys", dev=self.root / "dev", machine_id=self.root / "machine-id")

    @property
    def provider(self) -> LocalProvider:
        return LocalProvider("local", LocalSettings(devices=True), self.roots)

    def add(self, name: str, place: str, sectors: int = 2048, **attributes: str) -> Path:
        """A device; an attribute's `__` stands for a slash."""
        self.minor += 1
        directory = self.root / "sys" / place / name
        directory.mkdir(parents=True)
        content = {"dev": f"240:{self.minor}", "size": str(sectors), "ro": "0", "diskseq": str(self.minor)}
        for attribute, value in (content | attributes).items():
            path = directory / attribute.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{value}\n")
        self._link("class/block", name, directory)
        self._link("dev/block", f"240:{self.minor}", directory)
        if "partition" not in attributes:
            self._link("block", name, directory)
        node = self.root / "dev" / name.replace("!", "/")
        node.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(240, self.minor))
        return directory

    def _link(self, where: str, name: str, directory: Path) -> None:
        link = self.root / "sys" / where / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(directory, link.parent))

    def canonical(self, name: str) -> str:
        return self.provider.describe(disk_id(f"/dev/{name}")).canonical_id


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    return Machine(tmp_path)


def test_two_paths_to_one_world_wide_name_are_one_disk(machine: Machine) -> None:
    machine.add("sda", f"{PCI}:05.0/host0/block", device__wwid="naa.5000c500a1b2c3d4")
    machine.add("sdb", f"{PCI}:06.0/host1/block", device__wwid="naa.5000c500a1b2c3d4")
    assert machine.canonical("sda") == machine.canonical("sdb") == "device:naa.5000c500a1b2c3d4"


def test_namespaces_of_one_nvme_are_two_disks(machine: Machine) -> None:
    for namespace in (1, 2):
        machine.add(
            f"nvme0n{namespace}",
            f"{PCI}:05.0/nvme/nvme0",
            wwid=f"nvme.1d0f-766f6c-416d617a6f6e-0000000{namespace}",
            device__serial="vol0123456789abcdef0",
        )
    assert machine.canonical("nvme0n1") != machine.canonical("nvme0n2")


def test_equal_serials_in_two_places_are_two_disks(machine: Machine) -> None:
    """Virtual machines give out what they like."""
    machine.add("vda", f"{PCI}:02.0/virtio1/block", serial="disk")
    machine.add("vdb", f"{PCI}:03.0/virtio2/block", serial="disk")
    assert machine.canonical("vda") != machine.canonical("vdb")


def test_a_vendor_name_is_not_taken_for_world_wide(machine: Machine) -> None:
    name = "t10.QEMU    QEMU HARDDISK   drive-scsi0-0-0-0"
    machine.add("sda", f"{PCI}:05.0/host0/block", device__wwid=name)
    machine.add("sdb", f"{PCI}:06.0/host1/block", device__wwid=name)
    assert machine.canonical("sda") != machine.canonical("sdb")


def test_a_serial_of_another_machine_is_another_disk(machine: Machine, tmp_path: Path) -> None:
    machine.add("vda", f"{PCI}:02.0/virtio1/block", serial="disk")
    before = machine.canonical("vda")
    (tmp_path / "machine-id").write_text("f" * 32)
    assert machine.canonical("vda") != before


def test_disks_without_any_name_are_told_apart_by_the_kernels_count(machine: Machine) -> None:
    directory = machine.add("sda", f"{PCI}:05.0/host0/block")
    machine.add("sdb", f"{PCI}:06.0/host1/block")
    before = machine.canonical("sda")
    assert before != machine.canonical("sdb")
    (directory / "diskseq").write_text("99\n")  # unplugged, and another one plugged in
    assert machine.canonical("sda") != before


def test_a_scsi_serial_is_read_from_its_page(machine: Machine) -> None:
    directory = machine.add("sda", f"{PCI}:05.0/host0/block", device__model="Disk")
    (directory / "device/vpd_pg80").write_bytes(b"\0\x80\0\x08S3R1AL  ")
    assert "/dev/sda@S3R1AL" in found(machine.provider)


def test_the_name_with_a_serial_holds_only_for_that_disk(machine: Machine) -> None:
    directory = machine.add("vda", f"{PCI}:02.0/virtio1/block", serial="my disk/1")
    (native,) = found(machine.provider)
    assert native == "/dev/vda@my_disk_1"
    assert machine.provider.describe(disk_id(native)).canonical_id == machine.canonical("vda")
    (directory / "serial").write_text("another\n")
    with pytest.raises(DiskNotFound, match="another"):
        machine.provider.describe(disk_id(native))


def test_a_partition_has_its_disks_serial_in_its_name(machine: Machine) -> None:
    machine.add("vda", f"{PCI}:02.0/virtio1/block", serial="s")
    machine.add("vda1", f"{PCI}:02.0/virtio1/block/vda", partition="1")
    machine.add("vda10", f"{PCI}:02.0/virtio1/block/vda", partition="10")
    machine.add("vda2", f"{PCI}:02.0/virtio1/block/vda", partition="2")
    assert list(found(machine.provider)) == ["/dev/vda@s", "/dev/vda1@s", "/dev/vda2@s", "/dev/vda10@s"]
    assert machine.canonical("vda2") == machine.canonical("vda")


def test_model_and_serial_are_told(machine: Machine) -> None:
    machine.add("sda", f"{PCI}:05.0/host0/block", device__vendor="Google  ", device__model="PersistentDisk  ")
    disk = machine.provider.describe(disk_id("/dev/sda"))
    assert disk.description == "Google PersistentDisk"
    assert disk.labels == {"kernel_name": "sda", "model": "PersistentDisk"}


@pytest.mark.parametrize("name", ["ram0", "zram0", "fd0", "sr0"])
def test_memory_floppies_and_discs_are_no_disks(name: str, machine: Machine) -> None:
    machine.add(name, "devices/virtual/block")
    assert found(machine.provider) == {}
    with pytest.raises(InvalidDiskId):
        machine.provider.describe(disk_id(f"/dev/{name}"))


def test_an_empty_card_reader_is_not_listed(machine: Machine) -> None:
    machine.add("sdc", f"{PCI}:07.0/host2/block", sectors=0)
    assert found(machine.provider) == {}


def test_a_mapped_device_reads_through_its_disks_and_holds_them(machine: Machine) -> None:
    disk = machine.add("sda", f"{PCI}:05.0/host0/block", device__wwid="naa.1")
    partition = machine.add("sda1", f"{PCI}:05.0/host0/block/sda", partition="1")
    mapped = machine.add("dm-0", "devices/virtual/block", dm__uuid="LVM-abc")
    for directory, kind, name in ((partition, "holders", "dm-0"), (mapped, "slaves", "sda1")):
        (directory / kind).mkdir()
        (directory / kind / name).mkdir()
    assert disk.exists()
    volume = machine.provider.describe(disk_id("/dev/dm-0"))
    assert volume.backing == ("device:naa.1",)
    assert Access.READ_WRITE in volume.access
    for name in ("sda", "sda1"):
        below = machine.provider.describe(disk_id(f"/dev/{name}"))
        assert below.held_by == ("device dm-0",)
        assert Access.READ_WRITE not in below.access


def test_a_slash_in_a_kernel_name(machine: Machine) -> None:
    machine.add("cciss!c0d0", f"{PCI}:05.0/block", device__wwid="naa.2")
    disk = machine.provider.describe(disk_id("/dev/cciss/c0d0"))
    assert machine.provider.locate(disk).path == str(machine.root / "dev/cciss/c0d0")
