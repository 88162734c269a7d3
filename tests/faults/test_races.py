"""Races that the random operations meet too rarely to prove anything of them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection

from cloudmanager import Access, hookimpl
from cloudmanager.core.model import AttachmentState, DiskId, ExportState
from cloudmanager.core.statedir import StateDirectory
from cloudmanager.core.store import Store
from cloudmanager.core.store.database import Database
from cloudmanager.core.wiring import assemble
from tests.faults.file_cloud import SOMEBODY
from tests.faults.world import World
from tests.waiting import eventually

DISK = "disk.img"
WAIT_FOR_ONE_SECONDS = 2.0
"""How long a start that was cut may still become a server."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, {DISK: bytes(2 << 20)})
    yield made
    made.end()


def test_an_export_that_is_renewed_while_it_is_found_expired_lives_on(world: World) -> None:
    export = world.manager.export(f"files:{DISK}", Access.READ_ONLY, "client")
    world.settle()
    store = world.manager._store
    read_before = store.exports.get(export.id)
    world.manager.renew(export.id, timedelta(hours=2))
    assert not store.exports.expire(read_before)
    assert world.manager.get(export.id).state is ExportState.READY
    assert store.exports.expire(store.exports.get(export.id))
    assert world.manager.get(export.id).state is ExportState.CLOSING


class Detaches:
    """A plugin that counts them."""

    def __init__(self) -> None:
        self.count = 0

    @hookimpl(wrapper=True)
    def detach(self) -> Generator[None, object, object]:
        self.count += 1
        return (yield)


def test_what_was_planned_and_not_begun_is_forgotten_without_a_detach(world: World) -> None:
    detaches = Detaches()
    world.manager.close()
    world.plugins.append(("detaches", detaches))
    world.open()
    provider = world.manager._plugins["files"]
    plan = provider.plan_attach(provider.describe(DiskId("files", DISK)), Access.READ_ONLY)
    world.manager._store.attachments.plan("here", plan, AttachmentState.PLANNED)
    world.file_cloud.attach(DISK, SOMEBODY)
    eventually(lambda: not world.manager.attachments())
    assert detaches.count == 0


class PowerCut(Exception):
    """The machine goes down before a write."""


class CutDatabase(Database):
    """Takes a number of writes, and no more."""

    writes_left = 1  # the migration's

    @contextmanager
    def write(self) -> Iterator[Connection]:
        if self.writes_left == 0:
            raise PowerCut
        self.writes_left -= 1
        with super().write() as connection:
            yield connection


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_scratch_export_is_lost_by_a_reboot_also_when_the_first_start_after_it_is_cut(
    world: World, writes: int
) -> None:
    export = world.manager.export(f"files:{DISK}", Access.SCRATCH, "client")
    world.settle()
    world.shut_down()
    database = CutDatabase.open(world.settings.store_url)
    database.writes_left = writes
    state = StateDirectory.open(world.state)
    interrupted = assemble(world.settings, world.loaded(), Store(database, world.clock), world.clock, state)
    with suppress(PowerCut):
        interrupted.start()
    database.writes_left = 1  # the process ends as others do, so that the next one may have its place
    interrupted.close()
    world.open()
    world.settle()
    assert world.manager.get(export.id).state is ExportState.FAILED


def test_starts_that_were_cut_are_waited_for_together(world: World) -> None:
    exports = [world.manager.export(f"files:{DISK}", Access.READ_ONLY, "client") for _ in range(4)]
    world.settle()
    world.shut_down()
    with ExitStack() as stuck:
        for export in exports:  # what looks as if it were about to become a server, and never does
            command = ["sh", "-c", "read line", "sh", f"--export-name={export.name}"]
            stuck.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE))
        before = time.monotonic()
        world.open()
        took = time.monotonic() - before
    assert took < len(exports) * WAIT_FOR_ONE_SECONDS
    world.settle()
