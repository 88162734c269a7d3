"""The emulated clouds, with the test machine as their instance."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudmanager.testing.cloud import ec2, gce
from cloudmanager.testing.cloud.emulator import Emulator
from cloudmanager.testing.cloud.guest import Guest
from cloudmanager.testing.cloud.machine import Machine
from cloudmanager.testing.cloud.machine_guest import MachineGuest
from tests.vm.virtual_machine import HOST

INSTANCE = "worker-1"
LOOPBACK = "127.0.0.1"
OF_LOOP_DEVICES = ("dev_root", "sys_root", "lock_dir")
"""Settings that lead a provider to the devices of an emulated guest. A real guest has its own in the usual places."""
QEMU_PCI_VENDOR = "0x1b36"


class GceOfMachine(gce.Emulation):
    def __init__(self, directory: Path, machine: Machine) -> None:
        self._machine = machine
        super().__init__(directory)

    def add_guest(self, instance: str) -> Guest:
        return _guest_of(self, self._machine, instance)


class Ec2OfMachine(ec2.Emulation):
    def __init__(self, directory: Path, machine: Machine) -> None:
        self._machine = machine
        super().__init__(directory)

    def add_guest(self, instance: str) -> Guest:
        return _guest_of(self, self._machine, instance)


def _guest_of(emulator: Emulator[Any], machine: Machine, instance: str) -> Guest:
    guest = MachineGuest(machine, emulator.directory / "guests" / instance, emulator.faults, emulator.timeline)
    emulator.guests[instance] = guest
    return guest


@dataclass(frozen=True)
class MadeDisk:
    """A disk of an emulated cloud."""

    id: str
    """As a client of cloudmanager names it."""
    cloud_id: str
    """As the emulator names it."""
    image: Path
    """The sparse file that has its bytes."""


class Cloud(ABC):
    """One cloud as the tests see it."""

    provider: str
    """Its configured name."""
    detach_call: str
    refusal_of_writes: str
    """What a program in the machine is told that writes to a device that is exported read-only."""
    emulator: Emulator[Any]

    def make_disk(self, name: str, content: Path) -> MadeDisk:
        cloud_id = self.emulator.make_disk(name, content=content)
        return MadeDisk(f"{self.provider}:{self.native_id(cloud_id)}", cloud_id, self.emulator.backing(cloud_id))

    def settings(self) -> dict[str, object]:
        """The provider's table, for the machine."""
        table = self.emulator.provider_settings(INSTANCE)
        return {name: _from_inside(value) for name, value in table.items() if name not in OF_LOOP_DEVICES}

    def environment(self) -> Mapping[str, str]:
        return {name: str(_from_inside(value)) for name, value in self.emulator.environment(INSTANCE).items()}

    def detach_calls(self) -> list[object]:
        return [call for call in self.emulator.calls.mutations() if call.operation == self.detach_call]

    @abstractmethod
    def native_id(self, cloud_id: str) -> str: ...

    @abstractmethod
    def link(self, disk: MadeDisk, slot: str) -> str:
        """Path of the link that Debian's own udev rules make for the disk that is attached as `slot`."""


class Gce(Cloud):
    provider = "gce"
    detach_call = "instances.detachDisk"
    refusal_of_writes = "Read-only file system"  # it is attached read-only

    def __init__(self, directory: Path, machine: Machine) -> None:
        self.emulator = GceOfMachine(directory, machine)

    def native_id(self, cloud_id: str) -> str:
        _, _, zone, _, name = cloud_id.removeprefix("projects/").split("/")
        return f"{zone}/{name}"

    def link(self, disk: MadeDisk, slot: str) -> str:  # noqa: ARG002 - the slot is the disk's serial number
        return f"/dev/disk/by-id/scsi-0Google_PersistentDisk_{slot}"


class Ec2(Cloud):
    provider = "ebs"
    detach_call = "DetachVolume"
    refusal_of_writes = "Operation not permitted"  # EBS attaches read-write only: `blockdev --setro`

    def __init__(self, directory: Path, machine: Machine) -> None:
        self.emulator = Ec2OfMachine(directory, machine)

    def settings(self) -> dict[str, object]:
        return {**super().settings(), "pci_vendor": QEMU_PCI_VENDOR}

    def native_id(self, cloud_id: str) -> str:
        return cloud_id

    def link(self, disk: MadeDisk, slot: str) -> str:  # noqa: ARG002 - the volume is the controller's serial number
        return f"/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_{disk.cloud_id.replace('-', '')}"


def _from_inside(value: object) -> object:
    """An address of the emulator, as it is reached from the machine."""
    return value.replace(LOOPBACK, HOST) if isinstance(value, str) else value
