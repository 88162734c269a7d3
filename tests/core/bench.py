"""A manager with its surroundings, for the tests of the core."""

import os
import resource
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from cloudmanager import Access
from cloudmanager.core.clock import Clock
from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Export, ExportState
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.records import ExportFilter
from cloudmanager.core.settings import from_tables
from cloudmanager.core.wiring import open_manager
from tests.core.providers import Shelf, ShelfPlugin
from tests.waiting import eventually

Found = TypeVar("Found")
SIZE = 1 << 20
BOUND = 20.0


class SettableClock(Clock):
    """A boot clock that can be moved forward."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0

    def boottime(self) -> float:
        return super().boottime() + self.ahead


class Bench:
    """A manager with its surroundings, which can be stopped, killed in thought, and started again."""

    def __init__(self, directory: Path, store_url: str = "", **exports: object) -> None:
        self.shelf = Shelf(directory / "shelf")
        self.shelf.directory.mkdir()
        for name in ("a.img", "b.img", "c.img"):
            (self.shelf.directory / name).write_bytes(name.encode().ljust(16) * (SIZE // 16))
        self.clock = SettableClock()
        self.settings = from_tables(
            {
                "server": {"state_dir": str(directory / "state"), "node": "here"},
                "store": {"url": store_url},
                "exports": {"drain_seconds": 0, "reconcile_seconds": 0.2, **exports},
                "nbd": {"ports": "21000-21999"},
            }
        )
        self.others: list[tuple[str, object]] = []
        self.manager = self.open()

    def open(self) -> Manager:
        plugins = Plugins([("shelf", ShelfPlugin(self.shelf)), *self.others])
        plugins.configure({"one": {"type": "shelf"}, "two": {"type": "shelf"}, "writable": _WRITABLE})
        self.manager = open_manager(self.settings, plugins, self.clock)
        self.manager.start()
        return self.manager

    def restart(self) -> None:
        self.manager.close()
        self.open()

    def ready(self, disk: str = "one:a.img", access: Access = Access.READ_ONLY, holder: str = "alice") -> Export:
        export = self.manager.wait(self.manager.export(disk, access, holder).id, BOUND)
        assert export.state is ExportState.READY, export.error
        return export

    def over(self, export: Export) -> Export:
        """The export once it is closed or failed."""
        return eventually(lambda: _over(self.manager.get(export.id)))

    def end(self, export: Export) -> Export:
        self.manager.release(export.id)
        return self.over(export)

    def server_pid(self, export: Export) -> int:
        server = self.manager._store.exports.get(export.id).server
        assert server is not None
        return server.pid

    def kill_server(self, export: Export) -> None:
        kill(self.server_pid(export))

    def end_process(self, export: Export) -> None:
        """Kills the server of an export while no manager is open."""
        for pid in processes_of(export.name):
            kill(pid)

    def clear(self) -> None:
        """Releases everything and stops."""
        self.shelf.gate.set()
        self.shelf.failures.clear()
        for export in self.manager.list(ExportFilter(), limit=2000).items:
            if not export.state.is_over:
                self.end(export)
        self.manager.close()


_WRITABLE = {"type": "shelf", "read_only_attach": False}


def _over(export: Export) -> Export | None:
    return export if export.state.is_over else None


@contextmanager
def opened_bench(directory: Path, store_url: str = "", **exports: object) -> Iterator[Bench]:
    bench = Bench(directory, store_url, **exports)
    try:
        yield bench
    finally:
        bench.clear()


def content(export: Export) -> bytes:
    assert export.uri
    return subprocess.run(["nbdcopy", export.uri, "-"], check=True, capture_output=True).stdout


def kill(pid: int) -> None:
    ended = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([ended], [], [], BOUND)
    os.close(ended)


def processes_of(export_name: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if arguments[0].endswith((b"qemu-nbd", b"nbdkit")) and any(
                export_name.encode() in word for word in arguments
            ):
                found.append(int(process.name))
    return found


@contextmanager
def no_more_files() -> Iterator[None]:
    """Whatever this process would open now is refused; what is open stays so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
