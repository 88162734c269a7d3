"""A manager on an emulated cloud, whose disks are real block devices, for the tests of the core."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloudmanager import Access
from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Export, ExportState
from cloudmanager.core.plugins import Plugins, Provider
from cloudmanager.core.records import ExportFilter
from cloudmanager.core.settings import from_tables
from cloudmanager.core.wiring import open_manager
from cloudmanager.testing.cloud.guest import Guest, Plugged
from cloudmanager.testing.conformance.emulated import NODE, SAMPLE_BYTES, EmulatorHarness
from tests.core.bench import SettableClock, kill
from tests.core.nbd.client import Client
from tests.providers.aws.harness import Ec2Harness, XenHarness
from tests.providers.azure.harness import AzureHarness
from tests.providers.gce.harness import GceHarness, NvmeHarness
from tests.waiting import BOUND, eventually

CLOUDS: dict[str, type[EmulatorHarness]] = {
    "gce": GceHarness,
    "gce-nvme": NvmeHarness,
    "aws": Ec2Harness,
    "aws-xen": XenHarness,
    "azure": AzureHarness,
}
GIB = 1 << 30
_LOOP_SET_CAPACITY = 0x4C07  # linux/loop.h
_GROW: dict[str, Callable[[Any, str], None]] = {
    "gce": lambda cloud, disk: setattr(cloud.state.disks[disk], "size_gb", 2),
    "aws": lambda cloud, disk: setattr(cloud.volume(disk), "size_gib", 2),
    "azure": lambda cloud, disk: setattr(cloud.state.disk(cloud.resource(disk, "disks")), "size_bytes", 2 * GIB),
}


class CloudBench:
    """One provider, `cloud`, on the node of a conformance harness."""

    def __init__(self, directory: Path, kind: str, harness: EmulatorHarness, **exports: object) -> None:
        self.kind = kind.partition("-")[0]
        self.harness = harness
        self.cloud = harness.cloud
        self.clock = SettableClock()
        self.settings = from_tables(
            {
                "server": {"state_dir": str(directory / "state"), "node": "here"},
                "exports": {"drain_seconds": 0, "reconcile_seconds": 0.1, **exports},
                "nbd": {"ports": "22000-22999"},
            }
        )
        self.others: list[tuple[str, object]] = []
        """Plugins of the next service."""
        self.manager = self.open()

    def open(self) -> Manager:
        plugins = Plugins([("under-test", self.harness.plugin), *self.others])
        plugins.configure({"cloud": self.harness.table()})
        self.manager = open_manager(self.settings, plugins, self.clock)
        self.manager.start()
        return self.manager

    @property
    def provider(self) -> Provider:
        return self.manager._plugins["cloud"]

    @property
    def guest(self) -> Guest:
        return self.cloud.guests[NODE]

    def plugged(self, native: str) -> Plugged:
        """The device of a disk in the guest."""
        backing = self.cloud.backing(self.harness.emulated_id(native))
        return next(each for each in self.guest.plugged.values() if each.backing == backing)

    def ready(self, native: str, access: Access = Access.READ_ONLY, holder: str = "alice") -> Export:
        export = self.manager.wait(self.manager.export(f"cloud:{native}", access, holder).id, BOUND)
        assert export.state is ExportState.READY, export.error
        return export

    def over(self, export: Export) -> Export:
        return eventually(lambda: now if (now := self.manager.get(export.id)).state.is_over else None)

    def pid(self, export: Export) -> int:
        server = self.manager._store.exports.get(export.id).server
        assert server is not None
        return server.pid

    def served_anew(self, export: Export, pid: int) -> Export:
        """The export once another process than `pid` serves it."""

        def look() -> Export | None:
            now = self.manager.get(export.id)
            return now if now.state is ExportState.READY and self.pid(export) != pid else None

        return eventually(look)

    def grow(self, native: str) -> None:
        """To two GiB, and the kernel sees it."""
        disk = self.harness.emulated_id(native)
        _GROW[self.kind](self.cloud, disk)
        os.truncate(self.cloud.backing(disk), 2 * GIB)
        descriptor = os.open(self.plugged(native).node, os.O_RDONLY)
        fcntl.ioctl(descriptor, _LOOP_SET_CAPACITY)
        os.close(descriptor)

    def kill_server(self, export: Export) -> None:
        kill(self.pid(export))

    def write(self, export: Export, data: bytes) -> None:
        assert export.port is not None
        with Client.greeted(export.port, export.name) as client:
            client.write(0, data.ljust(SAMPLE_BYTES))
            client.flush()

    def boot(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """The machine starts again: no process survives, disks stay attached."""
        servers = [self.pid(export) for export in self.exports() if export.state is ExportState.READY]
        self.manager.close()
        for pid in servers:
            kill(pid)
        meanwhile()
        self.clock.boot_id = "another boot"
        self.open()

    def exports(self) -> tuple[Export, ...]:
        return self.manager.list(ExportFilter(), limit=2000).items

    def clear(self) -> None:
        """Releases everything and stops."""
        self.harness.recover()
        for export in self.exports():
            self.manager.release(export.id)
        for export in self.exports():
            self.over(export)
        self.manager.close()


def start_of(export: Export) -> bytes:
    """The first bytes, as a client reads them."""
    assert export.port is not None
    with Client.greeted(export.port, export.name) as client:
        return client.read(0, SAMPLE_BYTES)


@contextmanager
def opened_cloud(directory: Path, kind: str, **exports: object) -> Iterator[CloudBench]:
    with CLOUDS[kind](directory / "world") as harness:
        bench = CloudBench(directory, kind, harness, **exports)
        try:
            yield bench
        finally:
            bench.clear()
