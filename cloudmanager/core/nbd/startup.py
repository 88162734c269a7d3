"""Starts a server from its specification."""

import os
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from cloudmanager.confined import (
    Confinement,
    Ended,
    Launch,
    Launched,
    Limits,
    NoAnswer,
    Process,
    Spawner,
    Stderr,
    Unconfinable,
    executable,
    qemu_nbd,
)
from cloudmanager.core.errors import CloudManagerError, DeviceMismatch, ServerFailed, SizeMismatch
from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.core.model import Access, FileIdentity
from cloudmanager.core.nbd import handshake, images, listener, process, scratch, served_files, tls
from cloudmanager.core.nbd.adoption import end_by_name, leave_name, server_process
from cloudmanager.core.nbd.engine import Engine, ServerSpec, program_of, scratch_file
from cloudmanager.core.nbd.engines import QEMU_NBD, chosen, of_program
from cloudmanager.core.nbd.failure import explain_exit
from cloudmanager.core.nbd.handshake import ExpectedExport, WrongSize
from cloudmanager.core.nbd.images import OpenImage, image_name
from cloudmanager.core.nbd.running import RunningServer, client_count
from cloudmanager.core.records import ServerProcess
from cloudmanager.core.settings import NbdSettings
from cloudmanager.transfer.negotiation import ProtocolError

_STANDARD_OUTPUTS = (1, 2)
"""Descriptors that lead to where its standard error is kept."""


@dataclass(frozen=True)
class ServerVerification:
    """What a started server must prove before clients may connect."""

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
            served_files.check_open_files(
                server.pid, self.spec.device, [*self._overlay(), *locks], (*_STANDARD_OUTPUTS, *inherited)
            )
        except DeviceMismatch:
            if server.is_alive:
                raise
            raise Ended from None  # nothing is open any more

    def await_answer(self, server: Process, deadline: float) -> None:
        """Returns when it has offered the export to us. Raises Ended, NoAnswer, ProtocolError, WrongSize, OSError."""
        readiness = ExpectedExport(
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
        command_line = process.command_line(server.pid)
        engine = of_program(program_of(command_line)) or QEMU_NBD
        others = client_count(server.pid, self.listener_inode) - engine.accepts_beyond_slots(command_line)
        return others >= engine.connection_slots(command_line)

    def _overlay(self) -> list[FileIdentity]:
        if self.spec.access is not Access.SCRATCH:
            return []
        return [images.identity_of(scratch_file(self.directory).stat())]


_TLS = "tls"
FILES_PER_SERVER = 256
"""At most 64 connections, the images of a chain (32), keys, and what QEMU opens for itself."""
THREADS_PER_SERVER = 256
"""QEMU's pool has up to 64, beside a few others; nbdkit has up to 160 (`engines`)."""


def tls_directory(directory: Path) -> Path:
    """Where an export's key or certificates are, in its private directory."""
    return directory / _TLS


@dataclass(frozen=True)
class Startup:
    """One attempt to serve."""

    spec: ServerSpec
    settings: NbdSettings
    directory: Path
    """The export's own."""
    scratch_limit_bytes: int
    listener: socket.socket
    spawner: Spawner
    locks: tuple[int, ...] = ()
    """Descriptors of the disk's locks, which the server inherits."""

    def run(self) -> RunningServer:
        """Raises ServerFailed, DeviceMismatch, DeviceError, DiskInUse, ImageError; then nothing is left running."""
        try:
            with ExitStack() as undo:
                opened = images.open_images(self.spec.device, self.spec.access)
                undo.callback(images.close_images, opened)
                stderr = Stderr()
                undo.callback(stderr.close)
                engine = chosen(self.settings, self.spec, opened, self.spawner.can_make_node)
                with self.spawner.confinement(is_held=engine.can_be_held) as confinement:
                    launched, record = self._serve(self._prepare(opened, confinement, stderr, engine))
                undo.pop_all()
        except Unconfinable as error:
            raise ServerFailed(str(error), retriable=error.is_passing) from error
        except OSError as error:
            raise_exhausted(error)
            raise ServerFailed(f"The NBD server cannot be started: {error.strerror}.", retriable=True) from error
        images.close_images([image for image in opened if not image.is_exclusive])
        return RunningServer(record, launched, stderr, tuple(image.fd for image in opened if image.is_exclusive))

    def _prepare(
        self, opened: tuple[OpenImage, ...], confinement: Confinement, stderr: Stderr, engine: Engine
    ) -> Launch:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            leave_name(self.directory, self.spec.name)
            command = self._command(opened, confinement, engine)
        except OSError as error:
            raise_exhausted(error)
            raise ServerFailed(
                f"{self.directory} cannot be used: {error.strerror}. Make room there, or give access to it.",
                retriable=True,
            ) from error
        for lock in self.locks:
            confinement.keep(lock)
        limits = Limits(
            self.scratch_limit_bytes if self._is_scratch else None,
            memory_bytes=self.settings.memory_limit_bytes,
            open_files=FILES_PER_SERVER,
            processes=THREADS_PER_SERVER,
            cpu_weight=self.settings.cpu_weight,
        )
        return Launch(command, confinement, stderr, self.listener.fileno(), limits)

    def _command(self, opened: tuple[OpenImage, ...], confinement: Confinement, engine: Engine) -> list[str]:
        keys = self._tls(confinement)
        nodes = [*self._overlay(confinement), *self._disk(opened, confinement)]
        if not engine.can_be_held:  # it opens a device by its number: keep that from being reused
            for image in opened:
                if image.device.is_block:
                    confinement.keep(image.fd)
        program = executable(engine.program, engine.package)
        confinement.environment.update(engine.environment(keys))
        return [program, *engine.arguments(self.spec, self.settings, nodes, keys)]

    def _disk(self, opened: tuple[OpenImage, ...], confinement: Confinement) -> list[qemu_nbd.BlockNode]:
        """The disk itself has the advertised size; its backing images may have any."""
        top, *backing = (_node(image, confinement, number) for number, image in enumerate(opened))
        return [replace(top, size_bytes=self.spec.served_bytes), *backing]

    def _tls(self, confinement: Confinement) -> str:
        """Where the server sees its key or certificates; empty without TLS."""
        directory = tls_directory(self.directory)
        tls.prepare(self.settings, directory)
        if self.settings.tls == "off":
            return ""
        return _show_own(confinement, directory, os.O_RDONLY | os.O_DIRECTORY)

    def _overlay(self, confinement: Confinement) -> list[qemu_nbd.BlockNode]:
        """A scratch export's; what an earlier server of the export has written is kept."""
        if not self._is_scratch:
            return []
        if not self._has_overlay():
            scratch.create_overlay(self._scratch, self.spec.size_bytes)
        name = _show_own(confinement, self._scratch, os.O_RDWR)
        return [qemu_nbd.BlockNode(name, "qcow2", is_writable=True, is_disposable=True)]

    def _has_overlay(self) -> bool:
        """One that was not advertised yet may be from before the disk has grown. Raises ServerFailed if one is gone."""
        if self.spec.advertised_size_bytes is None:
            return self._scratch.exists() and scratch.fits(self._scratch, self.spec.size_bytes)
        if not self._scratch.exists():
            raise ServerFailed(
                f"{self._scratch} was removed while the export was served: what was written to the scratch export is "
                "lost. Ask again."
            )
        return True

    def _serve(self, launch: Launch) -> tuple[Launched, ServerProcess]:
        deadline = time.monotonic() + self.settings.start_timeout_seconds
        try:
            launched = launch.start(self.spawner, deadline)
        except (Ended, NoAnswer) as error:
            end_by_name(self.spec.name)
            raise self._explained(error, launch) from error
        except (OSError, Unconfinable):
            end_by_name(self.spec.name)
            raise
        try:
            return launched, self._proven(launched, launch, deadline)
        except BaseException as error:
            status = launched.finish()
            if isinstance(error, Ended | NoAnswer | ProtocolError | WrongSize):
                raise self._explained(error, launch, status) from error
            raise

    def _proven(self, launched: Launched, launch: Launch, deadline: float) -> ServerProcess:
        inode = listener.inode(self.listener)
        address = listener.reachable_address(self.listener)
        proof = ServerVerification(self.spec, self.settings, self.directory, address, inode)
        try:
            if launch.confinement.is_held:
                with launched.held(deadline):
                    proof.check_files(launched.server, launch.confinement.inherited)
            proof.await_answer(launched.server, deadline)
            if not launch.confinement.is_held:  # it sees only what was checked, but had not begun before it answered
                proof.check_files(launched.server, launch.confinement.inherited)
            return server_process(launched.server, inode)
        except OSError as error:
            raise Ended from error

    def _explained(self, error: Exception, launch: Launch, status: int | None = None) -> CloudManagerError:
        program = program_of(launch.command)
        if isinstance(error, NoAnswer):
            seconds = self.settings.start_timeout_seconds
            return ServerFailed(
                f"{program} did not answer within {seconds:g} s ([nbd] start_timeout_seconds).", retriable=True
            )
        if isinstance(error, WrongSize):
            return SizeMismatch(
                f"{self.spec.device.path} has {self.spec.served_bytes} bytes, but its server would show "
                f"{error.size_bytes}. Convert it with `qemu-img convert -O qcow2`, or ask again if it was changed."
            )
        if isinstance(error, ProtocolError):
            return ServerFailed(f"{program} did not offer the export: it {error}.", retriable=True)
        known = error.status if isinstance(error, Ended) and error.status is not None else status
        output = launch.stderr.read()
        limit, aliases = self.settings.memory_limit_bytes, launch.confinement.aliases
        return explain_exit(output, known, self.spec.device.path, aliases, limit, program)

    @property
    def _is_scratch(self) -> bool:
        return self.spec.access is Access.SCRATCH

    @property
    def _scratch(self) -> Path:
        return scratch_file(self.directory)


def _node(image: OpenImage, confinement: Confinement, number: int) -> qemu_nbd.BlockNode:
    device = image.device
    if image.is_exclusive:
        confinement.keep(image.fd)
    return qemu_nbd.BlockNode(
        confinement.show(image.fd, device.path, is_writable=image.is_writable, name=image_name(number)),
        device.format,
        device.is_block,
        image.is_writable,
        image.uses_page_cache,
        driver_options=device.driver_options,
    )


def _show_own(confinement: Confinement, path: Path, flags: int) -> str:
    """A file or directory of the export's own. Raises OSError."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return confinement.show(fd, str(path), is_writable=flags & os.O_ACCMODE == os.O_RDWR, name=path.name)
    finally:
        os.close(fd)
