"""The providers in a real guest: a virtual machine with Debian's cloud kernel and udev, its disks hot-plugged.

The emulated clouds run here; cloudmanager with its SDKs runs in the machine. An attach of the cloud's API becomes a
`device_add` of QEMU's, with the device's name (GCE) or the volume's id (EBS) as the serial number, and the provider
finds the device in the kernel's own sysfs.

What QEMU cannot imitate, and what is therefore proven with loop devices only:
- an EBS controller's PCI vendor (0x1d0f; here the setting `pci_vendor` says QEMU's 0x1b36), its model `Amazon Elastic
  Block Store`, and the device's name in its identify data;
- GCE's NVMe disks, which name themselves in the vendor's part of the namespace's identify data;
- Azure's disks, which are on Hyper-V's bus or behind its NVMe controllers;
- the links of the clouds' own udev rules: those of Debian's udev are looked at.
"""

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.core.nbd.client import Client
from tests.vm.clouds import Cloud, MadeDisk
from tests.vm.conftest import Evidence
from tests.vm.service import Export, Service
from tests.vm.virtual_machine import VirtualMachine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600, func_only=True)]  # a fixture makes the image

REQUEST_BYTES = 256 * 1024
SERVER = """
for process in /proc/[0-9]*; do
    [ "$(cat $process/comm)" = qemu-nbd ] && grep -q NAME $process/cmdline && echo $process
done 2>/dev/null
:
"""
OPEN_DEVICES = """
for file in PROCESS/fd/*; do
    [ -b "$file" ] && basename "$(readlink /sys/dev/block/$(stat -L -c %Hr:%Lr "$file"))"
done | sort -u
"""


def server_of(vm: VirtualMachine, export: Export) -> str:
    """The directory in the machine's /proc of the export's qemu-nbd."""
    return vm.agent.read(SERVER.replace("NAME", export.name))


def served_device(vm: VirtualMachine, export: Export) -> str:
    """The kernel's name of the block device that the export's qemu-nbd has open."""
    return vm.agent.read(OPEN_DEVICES.replace("PROCESS", server_of(vm, export)))


def linked_device(vm: VirtualMachine, link: str) -> str:
    """Where udev's link leads to; empty when there is none."""
    return Path(vm.agent.run(f"udevadm settle; readlink -e {link}").output.strip()).name


def disks_of(vm: VirtualMachine) -> set[str]:
    return set(vm.agent.read("ls /sys/block").split())


def wait_until_gone(vm: VirtualMachine, device: str) -> None:
    """From the machine's /dev and /sys."""
    vm.agent.read(f"udevadm wait --removed --settle --timeout=20 /dev/{device}")
    assert device not in disks_of(vm)


def connected(export: Export) -> Client:
    return Client.greeted(urlsplit(export.uri).port or 0, export.name)


def written_ranges(file: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what a sparse file holds, in pieces of a request."""
    size, end = os.fstat(file).st_size, 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left
            return
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield from ((offset, min(REQUEST_BYTES, end - offset)) for offset in range(start, end, REQUEST_BYTES))


def start_of(disk: MadeDisk | Evidence) -> bytes:
    with disk.image.open("rb") as file:
        return file.read(REQUEST_BYTES)


def digests(client: Client, backing: Path) -> tuple[str, str]:
    """SHA-256 of everything that was ever written to the disk: as the client reads it, and as the file has it."""
    over_nbd, in_file = sha256(), sha256()
    with backing.open("rb") as file:
        for offset, length in written_ranges(file.fileno()):
            over_nbd.update(client.read(offset, length))
            in_file.update(os.pread(file.fileno(), length, offset))
    return over_nbd.hexdigest(), in_file.hexdigest()


@pytest.fixture
def disk(request: pytest.FixtureRequest, cloud: Cloud, evidence: Evidence) -> MadeDisk:
    name = f"evidence-{sha256(request.node.name.encode()).hexdigest()[:8]}"
    return cloud.make_disk(name, evidence.image)


def test_a_hot_plugged_disk_is_found_and_served_and_seen_to_go(
    vm: VirtualMachine, cloud: Cloud, service: Service, disk: MadeDisk
) -> None:
    before = disks_of(vm)

    export = service.export(disk.id)
    attachment = service.wait_for_attachment(disk.id, "attached")
    device = served_device(vm, export)
    link = cloud.link(disk, attachment["slot"])
    assert disks_of(vm) == before | {device}
    assert linked_device(vm, link) == device
    with connected(export) as client:
        assert client.size == disk.image.stat().st_size
        over_nbd, in_file = digests(client, disk.image)
    assert over_nbd == in_file

    service.release(export)
    service.wait_for_attachment(disk.id, None)
    wait_until_gone(vm, device)
    assert disks_of(vm) == before
    assert cloud.emulator.holders(disk.cloud_id) == []
    assert linked_device(vm, link) == ""


def test_two_disks_of_each_cloud_at_once_are_told_apart(
    vm: VirtualMachine, clouds: dict[str, Cloud], service: Service, evidence: Evidence
) -> None:
    disks = [cloud.make_disk(f"twin-{number}", evidence.image) for cloud in clouds.values() for number in (1, 2)]
    for number, disk in enumerate(disks):
        with disk.image.open("r+b") as file:
            file.write(bytes([number + 1]) * 512)

    exports = [service.export(disk.id) for disk in disks]
    for number, export in enumerate(exports):
        with connected(export) as client:
            assert client.read(0, 512) == bytes([number + 1]) * 512
    assert len({served_device(vm, export) for export in exports}) == len(disks)

    for export in exports:
        service.release(export)
    for disk in disks:
        service.wait_for_attachment(disk.id, None)


def test_writes_to_a_device_that_is_exported_read_only_are_refused(
    vm: VirtualMachine, cloud: Cloud, service: Service, disk: MadeDisk, evidence: Evidence
) -> None:
    """By the disk itself where the cloud attaches read-only; by the kernel, because the core told it so, elsewhere."""
    export = service.export(disk.id)
    device = served_device(vm, export)

    written = vm.agent.run(f"dd if=/dev/urandom of=/dev/{device} bs=1M count=1 conv=fsync")
    assert written.status != 0
    assert cloud.refusal_of_writes in written.output
    assert vm.agent.read(f"blockdev --getro /dev/{device}") == "1"

    service.release(export)
    service.wait_for_attachment(disk.id, None)
    assert start_of(disk) == start_of(evidence)


def test_what_a_client_writes_is_on_the_disk_once_it_is_detached(
    vm: VirtualMachine, service: Service, disk: MadeDisk
) -> None:
    export = service.export(disk.id, "read-write")
    device = served_device(vm, export)
    assert vm.agent.read(f"blockdev --getro /dev/{device}") == "0"
    assert "busy" in vm.agent.run(f"mount /dev/{device} /mnt").output  # it is the client's alone

    written = b"written over NBD".ljust(REQUEST_BYTES, b".")
    with connected(export) as client:
        client.write(0, written)

    service.release(export)
    service.wait_for_attachment(disk.id, None)
    assert start_of(disk) == written


def test_a_mounted_disk_is_not_detached_before_it_is_unmounted(
    vm: VirtualMachine, cloud: Cloud, service: Service, disk: MadeDisk, evidence: Evidence
) -> None:
    calls = len(cloud.detach_calls())
    export = service.export(disk.id)
    device = served_device(vm, export)
    vm.agent.read(f"mount -t ext4 -o ro,noload /dev/{device} /mnt")

    service.release(export)
    stuck = service.wait_for_attachment(disk.id, "stuck")
    assert stuck["error"]["code"] == "disk_in_use"
    assert device in stuck["error"]["detail"]
    assert len(cloud.detach_calls()) == calls
    assert vm.agent.read("sha256sum < /mnt/random").split()[0] == evidence.digest

    vm.agent.read("umount /mnt")
    service.wait_for_attachment(disk.id, None)
    wait_until_gone(vm, device)
    assert cloud.emulator.holders(disk.cloud_id) == []


def test_the_server_is_confined_in_the_guest_too(vm: VirtualMachine, service: Service, disk: MadeDisk) -> None:
    export = service.export(disk.id)
    server = server_of(vm, export)
    for namespace in ("net", "mnt", "pid"):
        inside, outside = vm.agent.read(f"readlink {server}/ns/{namespace} /proc/1/ns/{namespace}").split()
        assert inside != outside
    service.release(export)
    service.wait_for_attachment(disk.id, None)
