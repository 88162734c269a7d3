"""A disk with logical sectors of 4096 bytes: what is said of it, and that clients may write less than a sector."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloudmanager import Access
from cloudmanager.api import answers
from cloudmanager.core.model import Query
from cloudmanager.testing.cloud import loop_device
from tests.core.nbd.client import Client
from tests.core.test_drift_of_local_disks import SIZE, LocalBench

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes loop devices")
SECTOR = 4096


@pytest.fixture
def content(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def large(content: Path) -> Iterator[Path]:
    """A disk with such sectors."""
    loop = loop_device.attach(content, sector_bytes=SECTOR)
    yield loop
    loop_device.detach(loop, content)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "small"
    file.write_bytes(bytes(SIZE))
    loop = loop_device.attach(file)
    yield loop
    loop_device.detach(loop, file)


@pytest.fixture
def bench(tmp_path: Path, large: Path, small: Path) -> Iterator[LocalBench]:
    """Its servers end before the devices do."""
    bench = LocalBench(tmp_path)
    yield bench
    bench.clear()


def test_the_disk_the_list_and_the_export_say_it(bench: LocalBench, large: Path, small: Path) -> None:
    bench.image("a.raw")
    for name, sectors in ((large, SECTOR), (small, 512), ("a.raw", 512)):
        assert bench.manager.disk(f"local:{name}").logical_sector_bytes == sectors
        export = bench.ready(name)
        assert export.logical_sector_bytes == sectors
        assert bench.manager.get(export.id).logical_sector_bytes == sectors
        assert answers.Export.of(export).model_dump()["logical_sector_bytes"] == sectors
    listed = {disk.id.native: disk for disk in bench.manager.disks("local", Query()).items}
    output = {native: disk.logical_sector_bytes for native, disk in listed.items() if native.endswith(f"/{large.name}")}
    assert set(output.values()) == {SECTOR}


def test_an_export_says_nothing_before_it_was_ready(bench: LocalBench, large: Path) -> None:
    made = bench.manager.export(f"local:{large}", Access.READ_ONLY, "alice")
    assert made.logical_sector_bytes in (None, SECTOR)
    assert made.logical_sector_bytes is None or made.size_bytes is not None


@pytest.mark.parametrize("access", [Access.READ_WRITE, Access.SCRATCH])
def test_parts_of_sectors_are_written(bench: LocalBench, large: Path, content: Path, access: Access) -> None:
    expected = bytearray(content.read_bytes())
    export = bench.ready(large, access)
    chance = random.Random(7)  # noqa: S311 - the same places each time
    with Client.greeted(export.port or 0, export.name) as client:
        assert client.size == SIZE
        for _ in range(100):
            offset = chance.randrange(SIZE - 9000)
            data = chance.randbytes(chance.choice([1, 511, 512, 513, 4095, 4096, 4097, 9000]))
            client.write(offset, data)
            expected[offset : offset + len(data)] = data
        client.flush()
        assert client.read(0, SIZE) == expected
        assert client.read(511, 3) == expected[511:514]
    bench.manager.release(export.id)
    on_disk = subprocess.run(["dd", f"if={large}", "bs=64k", "iflag=direct"], check=True, capture_output=True).stdout
    assert (on_disk == expected) is (access is Access.READ_WRITE)


def test_clients_that_write_parts_of_one_sector_lose_nothing(bench: LocalBench, large: Path) -> None:
    """Each part is read, changed and written back as a whole sector: nobody's may be lost in between."""
    export = bench.ready(large, Access.READ_WRITE)

    def write(part: int) -> None:
        with Client.greeted(export.port or 0, export.name) as client:
            for turn in range(60):
                client.write(8 * SECTOR + 512 * part, bytes([part, turn]) * 256)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    with Client.greeted(export.port or 0, export.name) as client:
        for part in range(6):
            assert client.read(8 * SECTOR + 512 * part, 512) == bytes([part, 59]) * 256
