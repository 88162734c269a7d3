"""The program that serves an export: what differs between those that can."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from cloudmanager.confined.qemu_nbd import BlockNode
from cloudmanager.core.model import Access, Device
from cloudmanager.core.settings import NbdSettings
from cloudmanager.linux.block import SECTOR_BYTES


@dataclass(frozen=True)
class ServerSpec:
    """One export's server."""

    export_id: str
    """Names the private directory."""
    name: str
    """Unguessable NBD export name."""
    port: int
    access: Access
    device: Device
    advertised_size_bytes: int | None = None
    """The size that was advertised to clients before. It stays so, however much the device has grown."""
    claims: Mapping[str, bool] = field(default_factory=dict)
    """Canonical ids of its disk and of what that reads through → whether exclusively."""

    @property
    def size_bytes(self) -> int:
        return self.device.size_bytes if self.advertised_size_bytes is None else self.advertised_size_bytes

    @property
    def served_bytes(self) -> int:
        """The size in whole sectors: QEMU counts in these."""
        return -(-self.size_bytes // SECTOR_BYTES) * SECTOR_BYTES


def scratch_file(directory: Path) -> Path:
    """Where a scratch export's overlay is, in its private directory."""
    return directory / "scratch.qcow2"


class Engine(ABC):
    """One such program. Listener, sandbox, limits and adoption are the same for all."""

    program: ClassVar[str]
    package: ClassVar[str]
    """Debian's, which has it."""
    can_be_held: ClassVar[bool]
    """It opens the disk before it accepts a client, at a point where it can be held (`confined.hold`)."""
    queues: ClassVar[bool]
    """A client that finds no free connection slot may stay in the listener's queue."""
    end_seconds: ClassVar[float]
    """How long it may take to finish its writes and end by itself."""

    @abstractmethod
    def name_option(self, name: str) -> str:
        """The argument of its command line that carries the export's name."""

    @abstractmethod
    def connection_slots(self, command_line: Sequence[str]) -> int:
        """How many clients it serves at the same time, if it was started like this: settings may have changed."""

    @abstractmethod
    def accepts_beyond_slots(self, command_line: Sequence[str]) -> bool:
        """A client beyond the connection slots is accepted, and greeted when one is free."""

    @abstractmethod
    def arguments(self, spec: ServerSpec, settings: NbdSettings, nodes: Sequence[BlockNode], keys: str) -> list[str]:
        """Its command line, without the program.

        `nodes`: what it opens, each reads through the next one. `keys`: where it sees its directory of a key or
        certificates; empty without TLS.
        """

    @abstractmethod
    def environment(self, keys: str) -> Mapping[str, str]:
        """Variables that it needs; `keys` as above."""


def number_after(option: str, command_line: Sequence[str]) -> int:
    """0 where it is not given."""
    return next((int(argument[len(option) :]) for argument in command_line if argument.startswith(option)), 0)


def program_of(command_line: Sequence[str]) -> str:
    return Path(command_line[0]).name if command_line else ""
