"""An emulated cloud's console: what is done there by hand, from another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudmanager.testing.cloud.emulator import Emulator
from tests.faults.remote_object import RemoteObject

MACHINES = ("worker-1", "worker-2")


@dataclass(frozen=True)
class Machine:
    """What a service needs to be on a machine of the cloud."""

    table: dict[str, object]
    environment: dict[str, str]


class Console:
    """What is done in the emulated cloud by hand, and what can be seen there."""

    def __init__(self, cloud: Emulator[Any]) -> None:
        self._cloud = cloud

    def machine(self, name: str) -> Machine:
        return Machine(self._cloud.provider_settings(name), self._cloud.environment(name))

    def make_disk(self, name: str, size_bytes: int) -> tuple[str, Path]:
        """Its id, and the file that has its bytes."""
        disk = self._cloud.make_disk(name, size_bytes=size_bytes)
        return disk, self._cloud.backing(disk)

    def attach(self, disk: str, machine: str, *, read_only: bool) -> None:
        self._cloud.attach_by_hand(disk, machine, read_only=read_only)

    def holders(self, disk: str) -> list[str]:
        return self._cloud.holders(disk)

    def detach(self, disk: str, machine: str) -> None:
        self._cloud.detach_by_hand(disk, machine)

    def take_surprises(self, machine: str) -> list[str]:
        """Disks that were taken from the machine while something had them open. Each is told once."""
        surprises = self._cloud.guests[machine].surprises
        taken = surprises[:]
        surprises.clear()
        return taken


class RemoteConsole:
    """The console of an emulated cloud, from another process."""

    def __init__(self, address: Path) -> None:
        self._console: Any = RemoteObject(address)

    def machine(self, name: str) -> Machine:
        machine: Machine = self._console.machine(name)
        return machine

    def make_disk(self, name: str, size_bytes: int) -> tuple[str, Path]:
        disk, path = self._console.make_disk(name, size_bytes)
        return str(disk), Path(path)

    def attach(self, disk: str, machine: str, *, read_only: bool) -> None:
        self._console.attach(disk, machine, read_only=read_only)

    def detach(self, disk: str, machine: str) -> None:
        self._console.detach(disk, machine)

    def holders(self, disk: str) -> list[str]:
        return list(self._console.holders(disk))

    def take_surprises(self, machine: str) -> list[str]:
        return list(self._console.take_surprises(machine))
