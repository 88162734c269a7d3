"""What is done to an image file or a block device while it is exported."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager import Access
from cloudmanager.core.model import Export, ExportState
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.records import ExportFilter
from cloudmanager.core.settings import from_tables
from cloudmanager.core.wiring import open_manager
from cloudmanager.providers import local
from cloudmanager.testing.cloud import loop_device
from tests.core.bench import kill
from tests.core.nbd.client import Client
from tests.loop_devices import detach
from tests.waiting import BOUND, eventually

SIZE = 1 << 20
_LOOP_SET_STATUS64, _LOOP_GET_STATUS64, _LOOP_CHANGE_FD = 0x4C04, 0x4C05, 0x4C06  # linux/loop.h
_LOOP_STATUS_BYTES, _LOOP_OFFSET_AT = 232, 24  # of struct loop_info64


class LocalBench:
    """A manager with the local provider on one directory, and on the block devices of this machine."""

    def __init__(
        self, directory: Path, reconcile_seconds: float = 0.1, before: Path | None = None, **local_settings: object
    ) -> None:
        """`before` is a directory of images in front of its own."""
        self.images = directory / "images"
        self.images.mkdir()
        settings = from_tables(
            {
                "server": {"state_dir": str(directory / "state"), "node": "here"},
                "exports": {"drain_seconds": 0, "reconcile_seconds": reconcile_seconds},
                "nbd": {"ports": "23000-23999"},
            }
        )
        plugins = Plugins([("local", local)])
        images = [str(each) for each in (before, self.images) if each]
        plugins.configure({"local": {"type": "local", "images": images, "devices": True, **local_settings}})
        self.manager = open_manager(settings, plugins)
        self.manager.start()

    def image(self, name: str, content: bytes = b"d") -> Path:
        path = self.images / name
        path.write_bytes(content * SIZE)
        return path

    def ready(self, name: str | Path, access: Access = Access.READ_ONLY) -> Export:
        export = self.manager.wait(self.manager.export(f"local:{name}", access, "alice").id, BOUND)
        assert export.state is ExportState.READY, export.error
        return export

    def shown(self, export: Export) -> str:
        """What the export shows, once it shows something."""
        return eventually(lambda: self.manager.get(export.id).error).detail

    def server(self, export: Export) -> int | None:
        """The process that serves a ready export."""
        record = self.manager._store.exports.get(export.id)
        return record.server.pid if record.server and record.state is ExportState.READY else None

    def over(self, export: Export) -> Export:
        return eventually(lambda: now if (now := self.manager.get(export.id)).state.is_over else None)

    def clear(self) -> None:
        for export in self.manager.list(ExportFilter()).items:
            self.manager.release(export.id)
            self.over(export)
        self.manager.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[LocalBench]:
    bench = LocalBench(tmp_path)
    yield bench
    bench.clear()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A read-only loop device of a file of its own."""
    file = tmp_path / "behind the loop"
    file.write_bytes(b"l" * SIZE)
    node = loop_device.attach(file, read_only=True)
    yield node
    if loop_device.backing_file(node).startswith(str(tmp_path)):
        loop_device.detach(node, Path(loop_device.backing_file(node)))


def client(export: Export) -> Client:
    assert export.port is not None
    return Client.greeted(export.port, export.name)


def test_a_loop_device_that_begins_elsewhere_in_its_file_ends_its_exports(bench: LocalBench, tmp_path: Path) -> None:
    """The kernel lets that be changed while it is open; the file, and so its incarnation, is the same."""
    file = tmp_path / "two parts"
    file.write_bytes(b"1" * SIZE + b"2" * SIZE)
    node = loop_device.attach(file, read_only=True, part=range(SIZE))
    try:
        export = bench.ready(node)
        assert export.disk.labels["loop_offset"] == "0"
        _begin_at(node, SIZE)
        failed = bench.over(export)
        assert failed.error is not None
        assert (failed.state, failed.error.code) == (ExportState.FAILED, "disk_replaced")
        assert "another part of its file" in failed.error.detail
    finally:
        loop_device.detach(node, file)


def _begin_at(loop: Path, offset: int) -> None:
    status = bytearray(_LOOP_STATUS_BYTES)
    descriptor = os.open(loop, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, status)
        struct.pack_into("=Q", status, _LOOP_OFFSET_AT, offset)
        fcntl.ioctl(descriptor, _LOOP_SET_STATUS64, bytes(status))
    finally:
        os.close(descriptor)


def test_an_image_that_was_deleted_is_served_on_and_says_so(bench: LocalBench) -> None:
    image = bench.image("a.raw")
    export = bench.ready("a.raw")
    with client(export) as reader:
        image.unlink()
        assert "deleted" in bench.shown(export)
        assert reader.read(0, 512) == b"d" * 512
    with client(export) as another:
        assert another.read(SIZE - 512, 512) == b"d" * 512
    assert bench.manager.get(export.id).state is ExportState.READY


@pytest.mark.parametrize("access", [Access.READ_ONLY, Access.SCRATCH, Access.READ_WRITE])
def test_an_image_whose_name_leads_to_another_ends_its_exports(bench: LocalBench, access: Access) -> None:
    image = bench.image("a.raw")
    export = bench.ready("a.raw", access)
    with client(export) as reader:
        bench.image("new.raw", b"n").rename(image)
        assert reader.is_cut()
    failed = bench.over(export)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (ExportState.FAILED, "disk_replaced")
    new = bench.ready("a.raw")
    with client(new) as reader:
        assert reader.read(0, 512) == b"n" * 512


@pytest.mark.parametrize("access", [Access.READ_ONLY, Access.SCRATCH, Access.READ_WRITE])
def test_an_image_that_was_truncated_is_not_served(bench: LocalBench, access: Access) -> None:
    image = bench.image("a.raw")
    export = bench.ready("a.raw", access)
    with client(export) as reader:
        os.truncate(image, SIZE // 2)
        assert reader.is_cut()
    failed = bench.over(export)
    assert failed.error is not None
    assert (failed.state, failed.error.retriable) == (ExportState.FAILED, False)


def test_a_container_that_was_truncated_is_not_served(bench: LocalBench) -> None:
    image = bench.images / "a.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    subprocess.run(["qemu-io", "-c", "write -P 7 0 4M", image], check=True, capture_output=True)
    export = bench.ready("a.qcow2")
    with client(export) as reader:
        os.truncate(image, image.stat().st_size // 2)
        assert reader.is_cut()
    assert bench.over(export).state is ExportState.FAILED


def test_what_a_client_writes_is_no_drift(bench: LocalBench) -> None:
    image = bench.images / "a.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    export = bench.ready("a.qcow2", Access.READ_WRITE)
    drift, provider = bench.manager._reconciler._drift, bench.manager._plugins["local"]
    with client(export) as writer:
        for offset in range(0, 4 << 20, 1 << 20):
            writer.write(offset, b"w" * (1 << 20))
            writer.flush()
            drift.look(provider)
        assert writer.read(0, 512) == b"w" * 512
    assert bench.manager.get(export.id).error is None


@pytest.mark.parametrize(
    "head", [b"\x1f\x8b\x08\0", b"QFI\xfb\0\0\0\3", b"EVF\t\r\n\xff\0"], ids=["gzip", "qcow2", "E01"]
)
def test_a_disk_that_looks_like_something_else_by_now_is_served_by_the_next_server(
    head: bytes, bench: LocalBench
) -> None:
    """What a client writes onto a raw disk is a raw disk's content: `tar` onto it, say."""
    bench.image("raw.img")
    export = bench.ready("raw.img", Access.READ_WRITE)
    with client(export) as writer:
        writer.write(0, head.ljust(512, b"\0"))
        writer.flush()
    first = bench.server(export)
    assert first is not None
    kill(first)
    eventually(lambda: bench.server(export) not in (None, first))
    with client(export) as reader:
        assert reader.read(0, len(head)) == head
    assert bench.manager.get(export.id).state is ExportState.READY


def test_a_loop_device_that_was_detached_by_hand_is_served_until_its_last_reader_ends(
    bench: LocalBench, loop: Path
) -> None:
    """The kernel keeps it as long as it is open."""
    export = bench.ready(loop)
    detach(loop)
    drift, provider = bench.manager._reconciler._drift, bench.manager._plugins["local"]
    drift.look(provider)
    with client(export) as reader:
        assert reader.read(0, 512) == b"l" * 512
    assert bench.manager.get(export.id).state is ExportState.READY


def test_a_device_that_has_other_bytes_under_the_same_number_is_not_served(
    bench: LocalBench, loop: Path, tmp_path: Path
) -> None:
    export = bench.ready(loop)
    other = tmp_path / "other"
    other.write_bytes(b"o" * SIZE)
    with client(export) as reader, other.open("rb") as file, loop.open("rb") as device:
        fcntl.ioctl(device, _LOOP_CHANGE_FD, file.fileno())
        assert reader.is_cut()
    failed = bench.over(export)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (ExportState.FAILED, "disk_replaced")
