"""Where the disk of a scenario is: in a cloud of files, among this machine's images, or in an emulated cloud."""

from __future__ import annotations

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from cloudmanager.testing.cloud.manual_actions import GIB
from tests.faults.console import MACHINES, RemoteConsole
from tests.faults.file_cloud import SOMEBODY, FileCloud, FileCloudPlugin

MiB = 1 << 20
KINDS = {"gce": "gce", "aws": "ec2", "azure": "azure"}
"""Provider type → emulated cloud."""
_NATIVE: dict[str, Callable[[str], str]] = {
    "gce": lambda path: "{3}/{5}".format(*path.split("/")),
    "aws": lambda volume: volume,
    "azure": lambda path: "{4}/{8}".format(*path.split("/")).casefold(),
}
"""What an emulated cloud calls a disk → how the provider spells it."""
_PATIENT: dict[str, object] = {
    "attach_timeout_seconds": 20,
    "detach_timeout_seconds": 20,
    "device_timeout_seconds": 20,
    "metadata_timeout_seconds": 10,
    "poll_seconds": 0.05,
}


def write_content(path: Path, size: int) -> None:
    """Random bytes in the first and the last MiB, and a hole between them."""
    chance = random.Random(size)  # noqa: S311 - any bytes will do
    with path.open("wb") as file:
        file.write(chance.randbytes(MiB))
        file.seek(size - MiB)
        file.write(chance.randbytes(MiB))


class Cloud(ABC):
    """One disk, and who has it."""

    disk: str
    """As a client names it."""
    size: int

    @abstractmethod
    def set_up(self, *, by_hand: bool) -> None:
        """Makes the disk; somebody may have attached it."""

    @abstractmethod
    def table(self) -> dict[str, object]:
        """The provider's configuration."""

    @abstractmethod
    def plugin(self, on_step: Callable[[str], None] | None) -> object:
        """`on_step` is called when the cloud is in the middle of something, where that is known."""

    @abstractmethod
    def attached(self) -> dict[str, bool]:
        """Native id of each disk that this machine has → whether it was attached by hand."""

    def by_hand(self) -> list[str]:
        """Native id of the disk, which somebody attached by hand."""
        return [self.disk.partition(":")[2]]

    def environment(self) -> dict[str, str]:
        """Of the processes on this machine."""
        return {}

    def tear_down(self) -> Iterator[str]:
        """What is left, or was seen to happen, that should not be."""
        yield from ()


class CloudOfFiles(Cloud):
    """Files that are attached and detached in two steps."""

    size = 3 * MiB
    disk = "files:disk.img"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file_cloud = FileCloud(directory)

    def set_up(self, *, by_hand: bool) -> None:
        write_content(self._file_cloud.disks / "disk.img", self.size)
        if by_hand:
            self._file_cloud.attach("disk.img", SOMEBODY)

    def table(self) -> dict[str, object]:
        return {"type": "files"}

    def plugin(self, on_step: Callable[[str], None] | None) -> object:
        return FileCloudPlugin(FileCloud(self._directory, on_step) if on_step else self._file_cloud)

    def attached(self) -> dict[str, bool]:
        return {name: holder.owner == SOMEBODY for name, holder in self._file_cloud.holders().items()}


class LocalCloud(Cloud):
    """An image file of this machine: nothing is ever attached."""

    size = 3 * MiB
    disk = "local:disk.img"

    def __init__(self, directory: Path) -> None:
        self._images = directory

    def set_up(self, *, by_hand: bool) -> None:
        assert not by_hand
        self._images.mkdir(parents=True)
        write_content(self._images / "disk.img", self.size)

    def table(self) -> dict[str, object]:
        return {"type": "local", "images": [str(self._images)]}

    def plugin(self, on_step: Callable[[str], None] | None) -> object:  # noqa: ARG002 - it has no steps
        return provider_module("local")

    def attached(self) -> dict[str, bool]:
        return {}


class EmulatedCloud(Cloud):
    """A machine of an emulated cloud, which many runs use one after the other: each has a disk of its own."""

    size = GIB

    def __init__(self, provider: str, address: Path, machine: str, note: Path) -> None:
        """`note` keeps what the disk of this scenario is called."""
        self._provider = provider
        self._console = RemoteConsole(address)
        self._machine = machine
        self._note = note
        self._by_hand = note.with_suffix(".by-hand")

    @property
    def disk(self) -> str:  # type: ignore[override] # the cloud chooses it
        return f"{self._provider}:{self._native}"

    def set_up(self, *, by_hand: bool) -> None:
        disk, path = self._console.make_disk(f"disk-{os.urandom(4).hex()}", self.size)
        write_content(path, self.size)
        self._note.write_text(disk)
        if by_hand:
            self._by_hand.touch()
            self._console.attach(disk, self._machine, read_only=self._provider == "gce")

    def environment(self) -> dict[str, str]:
        nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        return {**nothing, **self._console.machine(self._machine).environment}

    def table(self) -> dict[str, object]:
        return {**self._console.machine(self._machine).table, **_PATIENT}

    def plugin(self, on_step: Callable[[str], None] | None) -> object:  # noqa: ARG002 - its steps are requests
        return provider_module(self._provider)

    def attached(self) -> dict[str, bool]:
        holders = self._console.holders(self._note.read_text())
        assert set(holders) <= {self._machine}
        return {self._native: self._by_hand.exists()} if holders else {}

    def tear_down(self) -> Iterator[str]:
        disk = self._note.read_text()
        if self._by_hand.exists():
            self._console.detach(disk, self._machine)
        if holders := self._console.holders(disk):
            yield f"{disk} is still attached to {holders}"
        for surprise in self._console.take_surprises(self._machine):
            yield f"{surprise} was detached while it was open"

    @property
    def _native(self) -> str:
        return _NATIVE[self._provider](self._note.read_text())


def provider_module(provider: str) -> ModuleType:
    return import_module(f"cloudmanager.providers.{provider}")


def make_cloud(provider: str, directory: Path, address: str = "", number: int = 0) -> Cloud:
    """`address` and `number` choose a machine of an emulated cloud."""
    if provider == "files":
        return CloudOfFiles(directory / "files")
    if provider == "local":
        return LocalCloud(directory / "images")
    return EmulatedCloud(provider, Path(address), MACHINES[number], directory / "disk")
