"""What somebody does to an exported disk is noticed, shown, repaired where that is safe, and never served."""

import os
import signal
import subprocess
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from cloudmanager import Access, hookimpl
from cloudmanager.core.errors import (
    AccessDenied,
    CloudUnavailable,
    DeviceMismatch,
    DiskInUse,
    DiskNotFound,
    Throttled,
)
from cloudmanager.core.model import AttachmentState, Export, ExportState, Problem
from tests.core.bench import SIZE, Bench, content, kill, opened_bench
from tests.core.nbd.client import Client
from tests.waiting import BOUND, eventually


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened_bench(tmp_path, reconcile_seconds=0.1) as bench:
        yield bench


def shown(bench: Bench, export: Export) -> Problem:
    """What the export shows, once it shows something."""
    return eventually(lambda: bench.manager.get(export.id).error)


def served_anew(bench: Bench, export: Export, pid: int) -> Export:
    """The export once another process than `pid` serves it."""

    def look() -> Export | None:
        now = bench.manager.get(export.id)
        return now if now.state is ExportState.READY and bench.server_pid(export) != pid else None

    return eventually(look)


def test_a_disk_that_was_detached_by_hand_is_attached_again_and_served_on_its_address(bench: Bench) -> None:
    export = bench.ready()
    pid = bench.server_pid(export)
    with Client.greeted(export.port or 0, export.name) as client:
        bench.shelf.attached.clear()
        assert client.is_cut()
    again = served_anew(bench, export, pid)
    assert again.uri == export.uri
    assert again.error is None
    assert len(content(again)) == SIZE
    assert bench.shelf.calls.count("plan_attach shelf:a.img") == 2
    assert [each.state for each in bench.manager.attachments()] == [AttachmentState.ATTACHED]


def test_every_export_of_a_detached_disk_is_stopped_and_others_are_not(bench: Bench) -> None:
    detached = [bench.ready(holder=name) for name in ("a", "b")]
    other = bench.ready("one:b.img")
    pids = [bench.server_pid(export) for export in (*detached, other)]
    bench.shelf.attached.discard("shelf:a.img")
    for export, pid in zip(detached, pids, strict=False):
        served_anew(bench, export, pid)
    assert bench.server_pid(other) == pids[2]


def test_a_disk_that_somebody_has_attached_elsewhere_fails_with_the_holders_name(bench: Bench) -> None:
    export = bench.ready()
    bench.shelf.failures["attach"] = [DiskInUse("one:a.img is attached to worker-9.", holder="worker-9")]
    bench.shelf.attached.clear()
    failed = bench.over(export)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (ExportState.FAILED, "disk_in_use")
    assert "worker-9" in failed.error.detail


def test_what_was_written_to_scratch_is_not_laid_over_bytes_that_may_have_changed(bench: Bench) -> None:
    scratch = bench.ready(access=Access.SCRATCH)
    reader = bench.ready()
    pid = bench.server_pid(reader)
    bench.shelf.attached.clear()
    failed = bench.over(scratch)
    assert failed.error is not None
    assert "may have changed" in failed.error.detail
    assert content(served_anew(bench, reader, pid))


def test_an_export_that_cannot_be_ended_yet_is_not_served_again(bench: Bench) -> None:
    scratch = bench.ready(access=Access.SCRATCH)
    in_the_way = bench.settings.server.state_dir / "exports" / scratch.id / "in the way"
    in_the_way.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", in_the_way], check=True)
    try:
        bench.shelf.attached.clear()
        eventually(lambda: bench.manager.get(scratch.id).state is ExportState.CLOSING)
    finally:
        subprocess.run(["umount", in_the_way], check=True)
    bench.over(scratch)
    assert [event.event for event in bench.manager.audit(export_id=scratch.id).items].count("export.ready") == 1


def test_a_disk_that_is_elsewhere_now_is_served_from_there(bench: Bench) -> None:
    export = bench.ready()
    pid = bench.server_pid(export)
    new = bench.shelf.directory / "new"
    new.write_bytes(b"n" * SIZE)
    new.rename(bench.shelf.directory / "a.img")  # the provider says by this that the disk's device is another one
    again = served_anew(bench, export, pid)
    assert again.uri == export.uri
    assert content(again) == b"n" * SIZE


def test_a_disk_that_was_cut_off_is_not_served_and_its_export_fails(bench: Bench) -> None:
    export = bench.ready()
    with Client.greeted(export.port or 0, export.name) as client:
        os.truncate(bench.shelf.directory / "a.img", SIZE // 2)
        assert client.is_cut()
    failed = bench.over(export)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (ExportState.FAILED, "device_mismatch")
    assert "smaller" in failed.error.detail


def test_a_disk_that_has_grown_is_served_on_says_so_and_a_new_export_has_all_of_it(bench: Bench) -> None:
    export = bench.ready()
    pid = bench.server_pid(export)
    os.truncate(bench.shelf.directory / "a.img", 2 * SIZE)
    assert f"{2 * SIZE}" in shown(bench, export).detail
    grown = bench.manager.get(export.id)
    assert (grown.state, grown.size_bytes, bench.server_pid(export)) == (ExportState.READY, SIZE, pid)
    new = bench.ready(holder="bob")
    assert (new.size_bytes, new.error) == (2 * SIZE, None)
    assert len(content(new)) == 2 * SIZE


@pytest.mark.parametrize(
    "error",
    [CloudUnavailable("Not now."), Throttled("Later."), AccessDenied("No."), DiskNotFound("Never heard of it.")],
)
def test_a_cloud_that_cannot_be_asked_changes_nothing_but_a_note_that_goes_again(
    bench: Bench, error: CloudUnavailable
) -> None:
    export = bench.ready()
    pid = bench.server_pid(export)
    with Client.greeted(export.port or 0, export.name) as client:
        bench.shelf.failures["locate"] = [error] * 5
        assert shown(bench, export).code == error.code
        eventually(lambda: not bench.shelf.failures["locate"])
        eventually(lambda: bench.manager.get(export.id).error is None)
        assert len(client.read(0, 512)) == 512
    assert bench.manager.get(export.id).state is ExportState.READY
    assert bench.server_pid(export) == pid


def test_a_note_of_an_earlier_service_is_taken_back_by_the_next(bench: Bench) -> None:
    export = bench.ready()
    bench.shelf.failures["locate"] = [CloudUnavailable("Not now.")] * 10000
    assert shown(bench, export)
    bench.manager.close()
    bench.shelf.failures.clear()
    bench.open()
    eventually(lambda: bench.manager.get(export.id).error is None)


def test_a_disk_that_was_replaced_while_no_service_ran_is_noticed_by_the_next(bench: Bench) -> None:
    export = bench.ready()
    pid = bench.server_pid(export)
    bench.manager.close()
    new = bench.shelf.directory / "new"
    new.write_bytes(b"n" * SIZE)
    new.rename(bench.shelf.directory / "a.img")
    bench.open()
    assert content(served_anew(bench, export, pid)) == b"n" * SIZE


def test_a_disk_that_was_cut_off_while_no_service_ran_fails_its_export(bench: Bench) -> None:
    export = bench.ready()
    bench.manager.close()
    os.truncate(bench.shelf.directory / "a.img", SIZE // 2)
    bench.open()
    assert bench.over(export).state is ExportState.FAILED


def test_a_start_costs_no_look_and_each_disk_one_at_an_interval(tmp_path: Path) -> None:
    with opened_bench(tmp_path, reconcile_seconds=600) as bench:
        for number in range(5):
            bench.ready(holder=f"holder-{number}")
        located = bench.shelf.calls.count("locate shelf:a.img")
        drift, provider = bench.manager._reconciler._drift, bench.manager._plugins["one"]
        drift.look(provider)
        assert bench.shelf.calls.count("locate shelf:a.img") == located
        bench.clock.ahead = 600
        drift.look(provider)
        assert bench.shelf.calls.count("locate shelf:a.img") == located + 1


def test_a_server_of_a_closing_export_is_stopped_too(tmp_path: Path) -> None:
    with opened_bench(tmp_path, reconcile_seconds=0.1, drain_seconds=3600) as bench:
        export = bench.ready()
        with Client.greeted(export.port or 0, export.name) as client:
            bench.manager.release(export.id)
            bench.shelf.attached.clear()
            assert client.is_cut()
        assert bench.over(export).state is ExportState.CLOSED


def test_a_mismatch_that_is_no_devices_is_a_note(bench: Bench) -> None:
    """An open file stays what it was, whatever its name leads to."""
    export = bench.ready()
    bench.shelf.failures["locate"] = [DeviceMismatch("Another file is there now.")] * 10000
    assert "Another file" in shown(bench, export).detail
    assert len(content(bench.manager.get(export.id))) == SIZE


@pytest.mark.parametrize("access", list(Access))
def test_an_export_keeps_its_size_when_its_server_is_replaced_after_the_disk_has_grown(
    bench: Bench, access: Access
) -> None:
    export = bench.ready("writable:a.img", access)
    pid = bench.server_pid(export)
    before = content(export)
    os.truncate(bench.shelf.directory / "a.img", 2 * SIZE)
    kill(pid)
    again = served_anew(bench, export, pid)
    assert (again.uri, again.size_bytes) == (export.uri, SIZE)
    assert content(again) == before
    assert f"{2 * SIZE}" in shown(bench, export).detail
    assert bench.manager.get(export.id).size_bytes == SIZE


def test_what_was_written_to_scratch_is_there_when_its_server_is_replaced_after_the_disk_has_grown(
    bench: Bench,
) -> None:
    export = bench.ready(access=Access.SCRATCH)
    pid = bench.server_pid(export)
    with Client.greeted(export.port or 0, export.name) as client:
        client.write(SIZE - 512, b"w" * 512)
        client.flush()
    os.truncate(bench.shelf.directory / "a.img", 2 * SIZE)
    kill(pid)
    again = content(served_anew(bench, export, pid))
    assert (len(again), again[-512:]) == (SIZE, b"w" * 512)


@pytest.mark.parametrize("access", list(Access))
def test_a_server_that_died_is_not_replaced_when_the_disk_has_become_smaller(tmp_path: Path, access: Access) -> None:
    with opened_bench(tmp_path, reconcile_seconds=3600) as bench:
        export = bench.ready("writable:a.img", access)
        os.truncate(bench.shelf.directory / "a.img", SIZE // 2)
        bench.kill_server(export)
        failed = bench.over(export)
        assert failed.error is not None
        assert (failed.state, failed.error.code) == (ExportState.FAILED, "device_mismatch")
        assert "smaller" in failed.error.detail


@pytest.mark.parametrize("access", list(Access))
def test_a_server_that_was_stopped_goes_on_says_so_and_nobody_is_cut(bench: Bench, access: Access) -> None:
    export = bench.ready(access=access)
    pid = bench.server_pid(export)
    with Client.greeted(export.port or 0, export.name) as client:
        os.kill(pid, signal.SIGSTOP)
        assert len(client.read(0, SIZE)) == SIZE
        with Client.greeted(export.port or 0, export.name) as another:
            assert len(another.read(0, SIZE)) == SIZE
    assert bench.server_pid(export) == pid
    eventually(lambda: bench.manager.get(export.id).error is None)


def test_a_server_that_is_stopped_is_shown(bench: Bench) -> None:
    export = bench.ready()
    os.kill(bench.server_pid(export), signal.SIGSTOP)
    problem = shown(bench, export)
    assert "was stopped by a signal" in problem.detail
    assert (problem.code, problem.retriable) == ("server_failed", True)
    assert bench.manager.get(export.id).state is ExportState.READY


class Hanging:
    """A cloud that answers nothing while the gate is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.is_asked = threading.Event()

    @hookimpl(wrapper=True)
    def locate(self) -> Generator[None, object, object]:
        if not self.gate.is_set():
            self.is_asked.set()
            self.gate.wait(BOUND)
        return (yield)


def test_a_cloud_that_hangs_keeps_no_stopped_server_from_going_on(bench: Bench) -> None:
    cloud = Hanging()
    bench.manager.close()
    bench.others.append(("hanging", cloud))
    bench.open()
    export = bench.ready()
    cloud.gate.clear()
    try:
        assert cloud.is_asked.wait(BOUND)
        os.kill(bench.server_pid(export), signal.SIGSTOP)
        with Client.greeted(export.port or 0, export.name) as client:
            assert len(client.read(0, SIZE)) == SIZE
        assert not cloud.gate.is_set()
    finally:
        cloud.gate.set()


def test_a_look_at_the_disk_does_not_take_back_what_is_said_of_the_server(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = bench.ready()
    monkeypatch.setattr(bench.manager._exports._servers, "check_responsive", lambda *_, **__: "It hangs.")
    assert shown(bench, export).detail == "It hangs."
    seen = len(bench.shelf.calls)
    while len(bench.shelf.calls) < seen + 5:
        error = bench.manager.get(export.id).error
        assert error is not None
        assert error.detail == "It hangs."
    monkeypatch.undo()
    eventually(lambda: bench.manager.get(export.id).error is None)
