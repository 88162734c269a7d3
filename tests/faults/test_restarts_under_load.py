"""A client that copies a disk does not notice that the service is restarted."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager import Access
from cloudmanager.core.model import Export
from tests.faults import invariants
from tests.faults.clouds import MiB
from tests.faults.world import World
from tests.nbd.client import Client

DISK = "disk.img"
SIZE = 64 * MiB
RESTARTS = 20
BLOCK = 64 * 1024


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, {DISK: random.Random(DISK).randbytes(MiB) * (SIZE // MiB)})  # noqa: S311 - any bytes will do
    yield made
    made.end()


def _ready(world: World, access: Access) -> Export:
    export = world.manager.export(f"depot:{DISK}", access, "client")
    return world.manager.wait(export.id, 20)


def test_a_copy_does_not_notice_twenty_restarts(world: World, tmp_path: Path) -> None:
    export = _ready(world, Access.READ_ONLY)
    assert export.uri
    copy = tmp_path / "copy"
    command = ["nbdcopy", "--connections=1", "--request-size=65536", "--requests=1", export.uri, "-"]
    with copy.open("wb") as target, subprocess.Popen(command, stdout=subprocess.PIPE) as copying:
        assert copying.stdout
        for _ in range(RESTARTS):  # a pipe that is read in portions lets the copy last as long as the restarts
            world.restart()
            assert copying.poll() is None
            target.write(copying.stdout.read(SIZE // (RESTARTS + 1)))
        target.write(copying.stdout.read())
    assert copying.returncode == 0
    assert copy.read_bytes() == (world.depot.disks / DISK).read_bytes()
    assert [*invariants.contradictions(world.manager)] == []


def test_what_a_client_writes_through_twenty_restarts_is_on_the_disk(world: World) -> None:
    export = _ready(world, Access.READ_WRITE)
    with Client.greeted(export.port or 0, export.name) as client:
        for number in range(RESTARTS):
            client.write(number * BLOCK, _mark(number))
            world.restart()
            client.flush()
            assert client.read(number * BLOCK, BLOCK) == _mark(number)
    with (world.depot.disks / DISK).open("rb") as disk:
        assert disk.read(RESTARTS * BLOCK) == b"".join(map(_mark, range(RESTARTS)))


def _mark(number: int) -> bytes:
    return bytes([number + 1]) * BLOCK
