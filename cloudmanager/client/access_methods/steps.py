"""What a crash would leave behind, and how each is undone. Undoing a step that was never taken is harmless."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.client import calls
from cloudmanager.client.access_methods.command import find, run
from cloudmanager.client.access_methods.errors import AccessFailed
from cloudmanager.client.connection import ServiceConnection
from cloudmanager.client.errors import ExportNotFound
from cloudmanager.client.service import Service
from cloudmanager.confined.process import Process
from cloudmanager.linux.mounts import mounted_at

END_SECONDS = 20.0
BUSY_SECONDS = 1.0


@dataclass(frozen=True)
class UndoStep(ABC):
    """Fields are of what JSON has. `str()` of it is for people."""

    path: str

    @abstractmethod
    def undo(self) -> None:
        """Raises ClientError, OSError."""


@dataclass(frozen=True)
class MountPoint(UndoStep):
    """A file system, mounted read-only in a directory of the record."""

    def __str__(self) -> str:
        return f"file system mounted at {self.path}"

    def undo(self) -> None:
        """Processes that still read keep their open files; nothing that was written can be lost."""
        if _is_mount_point(self.path):
            try:
                run("umount", self.path)
            except AccessFailed:
                run("umount", "--lazy", self.path)


@dataclass(frozen=True)
class BoundMount(UndoStep):
    """The same file system, where the user wants it."""

    of: str
    """The mount point in the record. Something else that is mounted at `path` is not ours."""

    def __str__(self) -> str:
        return f"file system mounted at {self.path}"

    def undo(self) -> None:
        if _device_mounted_at(self.path) == _device_mounted_at(self.of):
            MountPoint(self.path).undo()


@dataclass(frozen=True)
class FuseFile(UndoStep):
    """nbdfuse and its mount point, a directory of the record."""

    def __str__(self) -> str:
        return f"nbdfuse at {self.path}"

    def undo(self) -> None:
        """nbdfuse ends when it is unmounted. If somebody still reads, it is ended, and the reader gets an error."""
        servers = list(filter(None, map(Process.find, _processes_naming(self.path))))
        try:
            if _is_mount_point(self.path):
                self._unmount(servers)
            for server in servers:
                if not server.wait(END_SECONDS):  # an NBD server that does not answer may block it
                    server.end(grace_seconds=0)
        finally:
            for server in servers:
                server.close()

    def _unmount(self, servers: list[Process]) -> None:
        try:
            _retried(lambda: _unmount_fuse(self.path))
        except AccessFailed:
            for server in servers:
                server.end(END_SECONDS)
            if _is_mount_point(self.path):
                _unmount_fuse(self.path, lazily=True)


@dataclass(frozen=True)
class MadeFile(UndoStep):
    """A file that we made where the user wanted it."""

    device: int
    inode: int

    def __str__(self) -> str:
        return f"file {self.path}"

    def undo(self) -> None:
        with suppress(FileNotFoundError):
            found = Path(self.path).lstat()
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                Path(self.path).unlink()


@dataclass(frozen=True)
class HeldExport(UndoStep):
    """An export that a process had to give back. `path` is the address of its service."""

    export_id: str
    disk: str

    def __str__(self) -> str:
        return f"export {self.export_id} of {self.disk} at {self.path}"

    def undo(self) -> None:
        """Raises ClientError: while its service is away, for example. Then it ends by itself, too."""
        connection = ServiceConnection(Service.of(self.path, None))
        with suppress(ExportNotFound):
            connection.run(calls.release(self.export_id, retry_seconds=0))


_KINDS = (MountPoint, BoundMount, FuseFile, MadeFile, HeldExport)
KINDS: dict[str, Callable[..., UndoStep]] = {kind.__name__: kind for kind in _KINDS}


def _device_mounted_at(path: str) -> int | None:
    mount = mounted_at(path)
    return mount.device if mount else None


def _is_mount_point(path: str) -> bool:
    return mounted_at(path) is not None


def _unmount_fuse(path: str, *, lazily: bool = False) -> None:
    if os.geteuid() == 0:
        run("umount", *(["--lazy"] if lazily else []), path)
    else:
        run("fusermount3", "-u", *(["-z"] if lazily else []), path)


def _retried(unmount: Callable[[], None]) -> None:
    """A loop device on the file is freed a moment after the file system on it."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return unmount()
        except AccessFailed:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _processes_naming(path: str) -> list[int]:
    """Those with a file below that path on their command line. The path has a random part, so they are ours."""
    named = f"\0{path}/".encode()
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if named in _command_line(entry)]


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def needs_fusermount() -> bool:
    """Whether nbdfuse cannot mount by itself and has no help."""
    return os.geteuid() != 0 and find("fusermount3") is None
