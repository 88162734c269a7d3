"""What the tests of the export manager share: devices of files, exports of devices, and a look at processes."""

from __future__ import annotations

import os
import queue
import select
import shutil
import struct
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudmanager.core.model import Access, Device, FileIdentity
from cloudmanager.core.nbd import Servers, ServerSpec, process
from cloudmanager.core.records import ServerProcess, new_export_name
from cloudmanager.core.settings import NbdSettings
from tests.core.nbd.client import Client
from tests.waiting import eventually

MiB = 1024 * 1024
PORTS = "23000-26999"
WAIT_SECONDS = 20
ENGINES = [
    "qemu-nbd",
    pytest.param("nbdkit", marks=pytest.mark.skipif(not shutil.which("nbdkit"), reason="needs nbdkit")),
]
"""For exports whose promises do not depend on who serves them."""


def device(path: Path, format_name: str = "raw", **changes: object) -> Device:
    """The device of a file or block device, as a provider would locate it."""
    status = path.stat()
    is_block = path.is_block_device()
    fields: dict[str, object] = {
        "path": str(path),
        "size_bytes": int(subprocess.check_output(["blockdev", "--getsize64", path])) if is_block else status.st_size,
        "identity": FileIdentity(status.st_rdev, 0) if is_block else FileIdentity(status.st_dev, status.st_ino),
        "format": format_name,
        "is_block": is_block,
    }
    return Device(**(fields | changes))  # type: ignore[arg-type] # the test names the fields


@dataclass(frozen=True)
class Served:
    """An export that is being served."""

    spec: ServerSpec
    process: ServerProcess
    uri: str

    @property
    def id(self) -> str:
        return self.spec.export_id

    @property
    def port(self) -> int:
        return self.spec.port

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self) -> Client:
        return Client.greeted(self.port, self.spec.name)

    def queue_up(self) -> Client:
        """Connected, though not yet greeted."""
        return Client(self.port, self.spec.name)


class Exporter:
    """Servers with a directory of their own, which remembers what it has exported and whose end it was told."""

    def __init__(self, directory: Path, *, scratch_limit_bytes: int = 16 * MiB, **settings: object) -> None:
        self.directory = directory
        self.exits: queue.Queue[str] = queue.Queue()
        self._settings = NbdSettings.model_validate({"ports": PORTS, **settings})
        self.servers = Servers(self._settings, directory, scratch_limit_bytes, self.exits.put)
        self._ids: set[str] = set()
        self._has_ended = False

    def export(self, disk: Device, access: Access = Access.READ_ONLY) -> Served:
        export_id = str(uuid.uuid4())
        self._ids.add(export_id)
        return self.start(ServerSpec(export_id, new_export_name(), self.servers.reserve(export_id), access, disk))

    def start(self, spec: ServerSpec) -> Served:
        self._ids.add(spec.export_id)
        return Served(spec, self.servers.start(spec), self.servers.uri(spec.name, spec.port))

    def adopt(self, served: Served, process: ServerProcess | None) -> ServerProcess | None:
        self._ids.add(served.id)
        return self.servers.adopt(served.id, served.spec.name, served.port, process)

    def exited(self) -> str:
        """Waits until a server is said to have ended."""
        return self.exits.get(timeout=WAIT_SECONDS)

    def end(self) -> None:
        """As a daemon ends: its servers go on."""
        if not self._has_ended:
            self._has_ended = True
            self.servers.close()

    def succeeded(self) -> Exporter:
        """The next daemon, which knows nothing yet of what this one has started."""
        self.end()
        return Exporter(self.directory, **self._settings.model_dump())

    def stop_each(self) -> None:
        for export_id in self._ids:
            self.servers.stop(export_id)
        self._ids.clear()

    def stop_all(self) -> None:
        if not self._has_ended:
            self.stop_each()
        self.end()


def connected(served: Served) -> Client:
    """As soon as there is a place: nbdkit turns away who comes before, and the service's own handshake may hold one."""

    def connect() -> Client | None:
        try:
            return served.connect()
        except (ConnectionError, struct.error):
            return None

    return eventually(connect)


def read_back(uri: str, target: Path) -> bytes:
    """The whole disk, as libnbd's nbdcopy reads it."""
    subprocess.run(["nbdcopy", uri, target], check=True, capture_output=True, timeout=60)
    return target.read_bytes()


def status(pid: int, field: str) -> str:
    """A line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:"))


def children(pid: int) -> list[int]:
    """Of every thread, zombies too."""
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def is_gone(server: ServerProcess) -> bool:
    """Another process may have its number by now."""
    try:
        return process.start_time(server.pid) != server.start_time
    except (FileNotFoundError, ProcessLookupError):
        return True


def has_ended(server: ServerProcess) -> bool:
    """It may be a zombie still."""
    try:
        return is_gone(server) or status(server.pid, "State").startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True  # in between


def wait_gone(pid: int) -> None:
    """Until it has ended; its parent may not have reaped it yet."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        assert poll.poll(WAIT_SECONDS * 1000)
    finally:
        os.close(fd)
