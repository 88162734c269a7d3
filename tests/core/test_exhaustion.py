"""A file descriptor that is missing for a look at a disk is no news of the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager import Access, hookimpl
from cloudmanager.core.errors import ResourcesExhausted
from cloudmanager.core.exhaustion import exhausted
from cloudmanager.core.fingerprint import Fingerprint
from cloudmanager.core.model import Device, ExportState, FileIdentity, Query
from cloudmanager.testing.cloud import loop_device
from tests.core.bench import no_more_files, opened_bench
from tests.core.test_drift_of_local_disks import SIZE, LocalBench
from tests.waiting import eventually


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[LocalBench]:
    bench = LocalBench(tmp_path, reconcile_seconds=600)
    yield bench
    bench.clear()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "behind the loop"
    file.write_bytes(b"l" * SIZE)
    node = loop_device.attach(file, read_only=True)
    yield node
    loop_device.detach(node, file)


def test_what_has_run_out_is_named_and_anything_else_is_nothing_of_the_kind() -> None:
    assert "LimitNOFILE" in arguments(OSError(errno.EMFILE, "Too many open files"))
    assert "fs.file-max" in arguments(OSError(errno.ENFILE, "Too many open files in system"))
    assert "memory" in arguments(MemoryError())
    assert "TasksMax" in arguments(RuntimeError("can't start new thread"))
    assert exhausted(OSError(errno.EAGAIN, "not now")) is None
    assert exhausted(OSError(errno.EIO, "I/O error")) is None
    assert exhausted(RuntimeError("something else")) is None
    started = exhausted(BlockingIOError(errno.EAGAIN, "no process"), is_start=True)
    assert started is not None
    assert (started.retriable, started.retry_after is not None) == (True, True)


def arguments(error: BaseException) -> str:
    found = exhausted(error)
    assert found is not None
    return found.detail


def test_a_disk_that_cannot_be_looked_at_is_not_another_one(bench: LocalBench, loop: Path) -> None:
    provider = bench.manager._plugins["local"]
    disks = [bench.manager.disk(f"local:{name}") for name in (bench.image("a.raw").name, loop)]
    for disk in disks:
        with no_more_files(), pytest.raises(ResourcesExhausted):
            provider.locate(disk)
        with no_more_files(), pytest.raises(ResourcesExhausted):
            provider.describe(disk.id)


def test_a_list_that_is_cut_short_is_an_error(bench: LocalBench) -> None:
    bench.image("a.raw")
    with no_more_files(), pytest.raises(ResourcesExhausted):
        bench.manager.disks("local", Query())


def test_nothing_is_stopped_because_it_could_not_be_looked_at(bench: LocalBench, loop: Path) -> None:
    exports = [bench.ready(loop), bench.ready(bench.image("a.raw").name)]
    servers, drift = bench.manager._exports._servers, bench.manager._reconciler._drift
    pids = [servers.pid(export.id) for export in exports]
    for export in exports:
        drift._served[export.id].since = float("-inf")
    with no_more_files():
        drift.look(bench.manager._plugins["local"])
    eventually(lambda: bench.manager.get(exports[0].id).error)
    drift.look(bench.manager._plugins["local"])
    eventually(lambda: not any(bench.manager.get(export.id).error for export in exports))
    assert [bench.manager.get(export.id).state for export in exports] == [ExportState.READY] * 2
    assert [servers.pid(export.id) for export in exports] == pids


def test_a_device_without_an_answer_is_unknown_and_not_gone(loop: Path) -> None:
    known = Fingerprint.take(Device(str(loop), SIZE, FileIdentity(loop.stat().st_rdev, 0), is_block=True))
    with no_more_files(), pytest.raises(ResourcesExhausted):
        known.change(os.getpid)


class Forgetful:
    """A wrapper around every provider that has no descriptor left."""

    @hookimpl(wrapper=True)
    def describe(self) -> Iterator[None]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        yield


def test_a_plugin_that_runs_out_of_files_has_no_defect(tmp_path: Path) -> None:
    with opened_bench(tmp_path) as bench:
        bench.others.append(("forgetful", Forgetful()))
        bench.restart()
        with pytest.raises(ResourcesExhausted):
            bench.manager.export("one:a.img", Access.READ_ONLY, "alice")
