"""An export that ends while it is in use: noticed, and told where the work is done."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudmanager.client import AsyncCloudManager, CloudManager, ExportLost, errors
from cloudmanager.client.errors import LostReason
from tests.client.conftest import Eventually
from tests.client.daemon import Daemon, server_at

pytestmark = pytest.mark.anyio

OFTEN = 0.05
NEVER = 10_000.0


@contextmanager
def block_that_is_lost() -> Iterator[pytest.ExceptionInfo[ExportLost]]:
    """A whole block of work that ends with the loss, wherever in it that comes up."""
    with pytest.raises(ExportLost) as lost:
        yield lost


async def test_whatever_leads_to_the_bytes_raises_it(
    client: AsyncCloudManager, daemon: Daemon, soon: Eventually, tmp_path: Path
) -> None:
    with block_that_is_lost():
        async with client.export("local:a.img", look_seconds=OFTEN, interrupt=False) as disk:
            daemon.release(disk.id)
            await soon(lambda: disk.lost)
            for use in (
                *(disk.check, disk.open, disk.device, disk.file, disk.mount),
                *(lambda: disk.uri, lambda: disk.address, lambda: disk.size_bytes, lambda: disk.stub(tmp_path / "s")),
            ):
                with pytest.raises(ExportLost, match="ended by somebody else"):
                    use()
            assert (disk.lost.reason, disk.lost.export_id) == (LostReason.RELEASED, disk.id)
            assert disk.export.state in ("closing", "closed")


async def test_the_end_of_the_block_notices_it_without_any_check(client: AsyncCloudManager, daemon: Daemon) -> None:
    with block_that_is_lost() as lost:
        async with client.export("local:a.img", look_seconds=NEVER) as disk:
            daemon.release(disk.id)
    assert lost.value.reason is LostReason.RELEASED
    assert lost.value.__cause__ is None


async def test_what_the_worker_met_first_is_the_cause(client: AsyncCloudManager, daemon: Daemon) -> None:
    with block_that_is_lost() as lost:
        async with client.export("local:a.img", look_seconds=NEVER) as disk:
            daemon.release(disk.id)
            raise OSError("no more bytes")
    assert isinstance(lost.value.__cause__, OSError)


async def test_on_lost_is_called_once(client: AsyncCloudManager, daemon: Daemon, soon: Eventually) -> None:
    reported: list[ExportLost] = []
    with block_that_is_lost():
        async with client.export("local:a.img", look_seconds=OFTEN, interrupt=False, on_lost=reported.append) as disk:
            daemon.release(disk.id)
            await soon(lambda: reported)
            disk.check()
    assert [lost.export_id for lost in reported] == [disk.id]


async def test_on_lost_may_fail(
    client: AsyncCloudManager, daemon: Daemon, soon: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(lost: ExportLost) -> None:
        raise ZeroDivisionError(str(lost))

    with block_that_is_lost():
        async with client.export("local:a.img", look_seconds=OFTEN, interrupt=False, on_lost=fail) as disk:
            daemon.release(disk.id)
            await soon(lambda: "on_lost failed" in caplog.text)


async def test_a_disk_that_cannot_be_served_any_more_says_why(
    client: AsyncCloudManager, daemon: Daemon, soon: Eventually
) -> None:
    daemon.image("drifts.img")
    with block_that_is_lost() as lost:
        async with client.export("local:drifts.img", look_seconds=OFTEN, interrupt=False) as disk:
            (daemon.images / "drifts.img").unlink()
            os.kill(daemon.server_pid(disk.id), signal.SIGKILL)
            await soon(lambda: disk.lost)
    assert lost.value.reason is LostReason.FAILED
    assert isinstance(lost.value.problem, errors.ServiceError)
    assert lost.value.problem.detail in lost.value.detail


async def test_a_server_that_dies_is_no_loss_when_it_is_replaced(
    client: AsyncCloudManager, daemon: Daemon, soon: Eventually, tmp_path: Path
) -> None:
    content = daemon.image("served.img")
    async with client.export("local:served.img", look_seconds=OFTEN) as disk:
        uri, first = disk.uri, daemon.server_pid(disk.id)
        os.kill(first, signal.SIGKILL)
        await soon(lambda: server_at(uri) not in (None, first) and daemon.state_of(disk.id) == "ready")
        assert disk.uri == uri
        subprocess.run(["nbdcopy", uri, tmp_path / "copy"], check=True)
    assert (tmp_path / "copy").read_bytes() == content


async def test_one_that_could_not_be_renewed_has_expired(
    client: AsyncCloudManager, daemon: Daemon, soon: Eventually
) -> None:
    """By our own clock: nobody needs to say so."""
    with block_that_is_lost() as lost:
        async with client.export("local:a.img", ttl_seconds=1, interrupt=False) as disk:
            daemon.stop(signal.SIGKILL)
            await soon(lambda: disk.lost)
    daemon.started()
    assert lost.value.reason is LostReason.EXPIRED
    assert isinstance(lost.value.problem, errors.Unreachable)


async def test_one_that_the_service_does_not_know_is_forgotten(
    client: AsyncCloudManager, daemon: Daemon, soon: Eventually, tmp_path: Path
) -> None:
    async with client.export("local:a.img", look_seconds=OFTEN, interrupt=False) as disk:
        daemon.stop()
        before = daemon.tables["server"]
        daemon.tables["server"] = {**before, "state_dir": str(tmp_path / "another")}
        daemon.started()
        await soon(lambda: disk.lost)
        lost = disk.lost
        daemon.stop()
        daemon.tables["server"] = before
        daemon.started()
        with pytest.raises(ExportLost):
            disk.check()
        disk._claim.lost = None  # so that the block gives it back, and nothing is left
    assert lost.reason is LostReason.FORGOTTEN
    assert isinstance(lost.problem, errors.ExportNotFound)


async def test_the_task_that_works_is_stopped(daemon: Daemon) -> None:
    with block_that_is_lost() as lost:
        async with AsyncCloudManager(daemon.url).export("local:a.img", look_seconds=OFTEN) as disk:
            daemon.release(disk.id)
            await asyncio.sleep(NEVER)
    assert lost.value.__cause__ is None
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_cancellation_of_somebody_else_stays_one(daemon: Daemon) -> None:
    """Also when the export is lost at the same time: who cancels a task waits for that."""

    async def work() -> None:
        async with AsyncCloudManager(daemon.url).export("local:a.img", look_seconds=NEVER) as disk:
            begun.set_result(disk)
            await asyncio.sleep(NEVER)

    begun = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(work())
    disk = await begun
    daemon.release(disk.id)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_main_thread_that_works_is_stopped(daemon: Daemon) -> None:
    begun = time.monotonic()
    with block_that_is_lost() as lost:
        with CloudManager(daemon.url).export("local:a.img", look_seconds=OFTEN, interrupt=True) as disk:
            daemon.release(disk.id)
            time.sleep(60)
    assert time.monotonic() - begun < 50
    assert lost.value.__cause__ is None


def test_an_interrupt_that_comes_at_the_end_of_the_block_is_told_as_the_loss_it_is(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = signal.pthread_kill
    monkeypatch.setattr(signal, "pthread_kill", lambda *target: threading.Timer(0.2, kill, target).start())
    with block_that_is_lost():
        with CloudManager(daemon.url).export("local:a.img", look_seconds=NEVER, interrupt=True) as disk:
            daemon.release(disk.id)
            assert disk._interrupt is not None
            disk._interrupt.fire()


def test_interrupt_needs_pythons_own_handler(daemon: Daemon) -> None:
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with pytest.raises(errors.InvalidSetup, match="Use on_lost"):
            with CloudManager(daemon.url).export("local:a.img", interrupt=True):
                pytest.fail("the block ran")
    finally:
        signal.signal(signal.SIGINT, before)
