"""The proof that a server serves what it was started for: the right files open, and a finished handshake.

A server that we start stands still when it has opened its files (`confined.hold`), so that these are looked at before
anybody is answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.confined import Ended, Process
from cloudmanager.core.errors import DeviceMismatch
from cloudmanager.core.model import Access, FileIdentity
from cloudmanager.core.nbd import handshake, images, process
from cloudmanager.core.nbd.engine import program_of
from cloudmanager.core.nbd.engines import QEMU_NBD, of_program
from cloudmanager.core.nbd.handshake import Readiness
from cloudmanager.core.nbd.running import client_count
from cloudmanager.core.nbd.spec import ServerSpec, scratch_file
from cloudmanager.core.settings import NbdSettings

_STANDARD_OUTPUTS = (1, 2)
"""Descriptors that lead to where its standard error is kept."""


@dataclass(frozen=True)
class Proof:
    """What a server has to show."""

    spec: ServerSpec
    settings: NbdSettings
    directory: Path
    """The export's own."""
    address: tuple[str, int]
    """Where this machine reaches it."""
    listener_inode: int

    def check_files(self, server: Process, inherited: Sequence[int] = (), locks: Sequence[FileIdentity] = ()) -> None:
        """That it has opened the disk, and nothing else.

        `inherited` are descriptors that say nothing of what it has opened, `locks` files that it holds as its locks.
        Raises DeviceMismatch, UnsafeImage, Ended, OSError.
        """
        try:
            images.check_open_files(
                server.pid, self.spec.device, [*self._overlay(), *locks], (*_STANDARD_OUTPUTS, *inherited)
            )
        except DeviceMismatch:
            if server.is_alive:
                raise
            raise Ended from None  # nothing is open any more

    def await_answer(self, server: Process, deadline: float) -> None:
        """Returns when it has offered the export to us. Raises Ended, NoAnswer, ProtocolError, WrongSize, OSError."""
        readiness = Readiness(
            server,
            self.spec.name,
            self.spec.served_bytes,
            requires_tls=self.settings.tls != "off",
            deadline=deadline,
            is_occupied=lambda: self._is_occupied(server),
        )
        handshake.await_ready(self.address, readiness)

    def _is_occupied(self, server: Process) -> bool:
        """Not counting ourselves, if we were accepted and wait."""
        engine = of_program(program_of(process.command_line(server.pid))) or QEMU_NBD
        others = client_count(server.pid, self.listener_inode) - engine.accepts_who_waits(self.settings)
        return others >= engine.places(self.settings)

    def _overlay(self) -> list[FileIdentity]:
        if self.spec.access is not Access.SCRATCH:
            return []
        return [images.identity_of(scratch_file(self.directory).stat())]
