"""Two services on one machine, each with a store of its own, share a disk and take it away from nobody."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager import Access
from cloudmanager.core.errors import UnsupportedAccess
from cloudmanager.core.model import AttachmentState, Export, ExportState
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.records import ExportFilter
from cloudmanager.core.settings import from_tables
from cloudmanager.core.wiring import open_manager
from cloudmanager.providers import local
from cloudmanager.testing.cloud import loop_device
from tests.core.bench import SettableClock, kill, opened_bench
from tests.core.cloud_bench import CloudBench, opened_cloud
from tests.core.nbd.client import Client
from tests.waiting import BOUND, eventually


class Service:
    """A second one, beside the bench's, on the same machine."""

    def __init__(self, directory: Path, plugins: Plugins, ports: str = "23000-23999") -> None:
        settings = from_tables(
            {
                "server": {"state_dir": str(directory), "node": "there"},
                "exports": {"drain_seconds": 0, "reconcile_seconds": 0.1},
                "nbd": {"ports": ports},
            }
        )
        self.manager = open_manager(settings, plugins, SettableClock())
        self.manager.start()

    def asked(self, disk: str, access: Access = Access.READ_ONLY) -> Export:
        return self.manager.wait(self.manager.export(disk, access, "bob").id, BOUND)

    def release(self) -> None:
        for export in self.manager.list(ExportFilter()).items:
            self.manager.release(export.id)
        eventually(lambda: all(each.state.is_over for each in self.manager.list(ExportFilter()).items))

    def end(self) -> None:
        self.release()
        self.manager.close()


@pytest.fixture(params=["gce", *(pytest.param(cloud, marks=pytest.mark.slow) for cloud in ("aws", "azure"))])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CloudBench]:
    with opened_cloud(tmp_path, request.param) as bench:
        yield bench


@pytest.fixture
def second(bench: CloudBench, tmp_path: Path) -> Iterator[Service]:
    plugins = Plugins([("under-test", bench.harness.plugin)])
    plugins.configure({"cloud": bench.harness.table()})
    service = Service(tmp_path / "second", plugins)
    yield service
    service.end()


def test_who_attached_a_disk_does_not_detach_it_under_the_others_readers(bench: CloudBench, second: Service) -> None:
    disk = bench.harness.make_disk()
    ours, theirs = bench.ready(disk), second.asked(f"cloud:{disk}")
    assert theirs.state is ExportState.READY
    with Client.greeted(theirs.port or 0, theirs.name) as client:
        bench.manager.release(ours.id)
        stuck = eventually(
            lambda: [each for each in bench.manager.attachments() if each.state is AttachmentState.STUCK]
        )
        assert stuck[0].error is not None
        assert "Another service on this machine serves it: there" in stuck[0].error.detail
        assert client.read(0, 4096) == bench.harness.content(disk)
        assert bench.harness.detaches() == 0
    second.manager.release(theirs.id)
    eventually(lambda: not bench.harness.holders(disk))
    assert [each.state for each in second.manager.attachments()] == []


def test_a_server_that_outlives_its_service_keeps_the_disk(bench: CloudBench, second: Service) -> None:
    disk = bench.harness.make_disk()
    ours, theirs = bench.ready(disk), second.asked(f"cloud:{disk}")
    pid = second.manager._store.exports.get(theirs.id).server
    assert pid is not None
    second.manager.close()
    bench.manager.release(ours.id)
    eventually(lambda: any(each.state is AttachmentState.STUCK for each in bench.manager.attachments()))
    assert bench.harness.detaches() == 0
    kill(pid.pid)
    eventually(lambda: not bench.harness.holders(disk))
    second.manager = open_manager(second.manager._lifecycle._settings, second.manager._plugins, SettableClock())
    second.manager.start()


def test_of_two_services_one_writes(tmp_path: Path) -> None:
    """Read-write excludes what another service serves, and is excluded by it; the error names that."""
    with opened_cloud(tmp_path, "gce") as bench:
        plugins = Plugins([("under-test", bench.harness.plugin)])
        plugins.configure({"cloud": bench.harness.table()})
        second = Service(tmp_path / "second", plugins)
        disk = bench.harness.make_disk()
        writer = bench.ready(disk, Access.READ_WRITE)
        refused = second.asked(f"cloud:{disk}", Access.READ_WRITE)
        assert refused.state is ExportState.FAILED
        assert refused.error is not None
        assert refused.error.code == "access_conflict"
        assert "here (" in refused.error.detail
        bench.manager.release(writer.id)
        bench.over(writer)
        eventually(lambda: not bench.harness.holders(disk))
        again = second.asked(f"cloud:{disk}", Access.READ_WRITE)
        assert again.state is ExportState.READY
        second.end()


SHARING = pytest.mark.parametrize(
    ("first", "wanted", "state"),
    [
        (Access.READ_ONLY, Access.READ_ONLY, ExportState.READY),
        (Access.READ_ONLY, Access.READ_WRITE, ExportState.FAILED),
        (Access.READ_WRITE, Access.READ_ONLY, ExportState.FAILED),
        (Access.READ_WRITE, Access.SCRATCH, ExportState.FAILED),
    ],
)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[tuple[Service, Service]]:
    """Both with the same images and all block devices."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.img").write_bytes(bytes(1 << 20))
    made = []
    for number, name in enumerate(("one", "two")):
        plugins = Plugins([("local", local)])
        plugins.configure({"local": {"type": "local", "images": [str(tmp_path / "images")], "devices": True}})
        made.append(Service(tmp_path / name, plugins, f"2{4 + number}000-2{4 + number}999"))
    yield made[0], made[1]
    for service in made:
        service.end()


@SHARING
def test_local_images_are_shared_by_readers_and_a_writer_is_alone(
    services: tuple[Service, Service], first: Access, wanted: Access, state: ExportState
) -> None:
    assert services[0].asked("local:a.img", first).state is ExportState.READY
    assert services[1].asked("local:a.img", wanted).state is state


@SHARING
@pytest.mark.parametrize("name", [pytest.param("its own", marks=pytest.mark.slow), "its partition", "its image"])
def test_so_are_block_devices_whatever_they_are_called(
    tmp_path: Path, services: tuple[Service, Service], first: Access, wanted: Access, state: ExportState, name: str
) -> None:
    image = tmp_path / "images/a.img"
    os.truncate(image, 8 << 20)
    subprocess.run(["sfdisk", "--quiet", image], input=b"2048,4096\n", check=True)
    device = loop_device.attach(image)
    try:
        subprocess.run(["partx", "--delete", device], check=False, capture_output=True)  # what others left behind
        subprocess.run(["partx", "--update", device], check=True)
        other = {"its own": device, "its partition": f"{device}p1", "its image": "a.img"}[name]
        assert services[0].asked(f"local:{device}", first).state is ExportState.READY
        if name == "its image" and wanted is Access.READ_WRITE:
            with pytest.raises(UnsupportedAccess, match="held by loop device"):
                services[1].asked(f"local:{other}", wanted)
        else:
            assert services[1].asked(f"local:{other}", wanted).state is state
        for service in services:
            service.release()
    finally:
        subprocess.run(["partx", "--delete", device], check=False)
        loop_device.detach(device, image)


@SHARING
def test_so_is_what_the_services_know_by_different_canonical_ids(
    tmp_path: Path, first: Access, wanted: Access, state: ExportState
) -> None:
    """Another machine id, in a container say, gives a local disk another one."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.img").write_bytes(bytes(1 << 20))
    made = []
    for number, name in enumerate(("one", "two")):
        (tmp_path / name / "providers").mkdir(parents=True, mode=0o700)
        (tmp_path / name / "providers/machine").write_text(name)
        (tmp_path / name).chmod(0o700)
        plugins = Plugins([("local", local)])
        plugins.configure({"local": {"type": "local", "images": [str(tmp_path / "images")]}})
        made.append(Service(tmp_path / name, plugins, f"2{4 + number}000-2{4 + number}999"))
    asked = [made[0].asked("local:a.img", first), made[1].asked("local:a.img", wanted)]
    assert asked[0].disk.canonical_id != asked[1].disk.canonical_id
    assert [each.state for each in asked] == [ExportState.READY, state]
    for service in made:
        service.end()


def test_a_service_that_was_killed_finds_its_writers_server_again(tmp_path: Path) -> None:
    """The server has the lock: that must not keep its own service from it."""
    with opened_bench(tmp_path) as bench:
        export = bench.ready(access=Access.READ_WRITE)
        pid = bench.server_pid(export)
        bench.restart()
        now = bench.manager.get(export.id)
        assert (now.state, bench.server_pid(now)) == (ExportState.READY, pid)
        kill(pid)
        eventually(lambda: bench.manager.get(export.id).state is ExportState.READY and bench.server_pid(now) != pid)
