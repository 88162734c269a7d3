"""A cloud refuses for a while: what was ready once is not lost by that, and an export shows what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudmanager import Access
from cloudmanager.core.errors import (
    AccessDenied,
    CloudManagerError,
    ConfigurationError,
    DeviceError,
    DeviceMismatch,
    WrongZone,
)
from cloudmanager.core.model import Export, ExportState
from cloudmanager.testing.cloud.faults import Effect, Fault
from tests.core.bench import Bench, content, opened_bench
from tests.core.cloud_bench import CloudBench, opened_cloud, start_of
from tests.waiting import eventually

CLOUDS = pytest.mark.parametrize("kind", ["gce", "aws-xen", "azure"])  # of which each asks its cloud to locate a disk


def _credentials_refused(bench: CloudBench) -> None:
    bench.cloud.faults.add(bench.harness.denied("*"))


def _throttled(bench: CloudBench) -> None:
    bench.cloud.faults.add(Fault("*", Effect.THROTTLE, times=0, retry_after=1))


def _unreachable(bench: CloudBench) -> None:
    bench.cloud.faults.add(Fault("*", Effect.CUT_BEFORE, times=0))


@pytest.fixture
def bench(tmp_path: Path, kind: str) -> Iterator[CloudBench]:
    with opened_cloud(tmp_path, kind, reconcile_seconds=600) as bench:
        yield bench


def failing(bench: CloudBench, export: Export) -> Export | None:
    """The export while it has an error, and is still wanted."""
    now = bench.manager.get(export.id)
    assert now.state is not ExportState.FAILED, now.error
    return now if now.error and now.state is ExportState.ATTACHING else None


@CLOUDS
@pytest.mark.parametrize("outage", [_credentials_refused, _throttled, _unreachable])
def test_a_server_that_dies_during_an_outage_is_replaced_after_it(
    bench: CloudBench, outage: Callable[[CloudBench], None]
) -> None:
    disk = bench.harness.make_disk()
    export = bench.ready(disk, Access.SCRATCH)
    pid = bench.pid(export)
    bench.write(export, b"written before")
    outage(bench)
    bench.kill_server(export)
    waiting = eventually(lambda: failing(bench, export))
    assert waiting.error is not None
    assert waiting.error.retriable
    tries = len(bench.harness.calls)
    eventually(lambda: len(bench.harness.calls) > tries)  # the back-off grows: once more is enough
    assert failing(bench, export)
    bench.harness.recover()
    again = bench.served_anew(export, pid)
    assert (again.uri, again.error) == (export.uri, None)
    assert start_of(again).startswith(b"written before")


@CLOUDS
def test_an_export_that_was_never_ready_is_told_at_once_that_access_is_denied(bench: CloudBench) -> None:
    disk = bench.harness.make_disk()
    bench.cloud.faults.add(bench.harness.denied(bench.harness.attach_operation))
    failed = bench.over(bench.manager.export(f"cloud:{disk}", Access.READ_ONLY, "alice"))
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (ExportState.FAILED, "access_denied")


@CLOUDS
def test_an_export_is_attaching_while_its_disk_is_attached(bench: CloudBench) -> None:
    disk = bench.harness.make_disk()
    bench.cloud.faults.add(Fault(bench.harness.attach_operation, Effect.HANG))
    export = bench.manager.export(f"cloud:{disk}", Access.READ_ONLY, "alice")
    assert export.state is ExportState.PENDING
    eventually(lambda: bench.manager.get(export.id).state is ExportState.ATTACHING)
    assert bench.manager.get(export.id).error is None
    bench.harness.recover()
    eventually(lambda: bench.manager.get(export.id).state is ExportState.READY)


@CLOUDS
def test_an_export_shows_the_throttle_that_it_waits_for(bench: CloudBench) -> None:
    """The provider waits by itself, as long as the cloud asks for."""
    disk = bench.harness.make_disk()
    bench.cloud.faults.add(Fault(bench.harness.attach_operation, Effect.THROTTLE, retry_after=4))
    export = bench.manager.export(f"cloud:{disk}", Access.READ_ONLY, "alice")
    waiting = eventually(lambda: failing(bench, export))
    assert waiting.error is not None
    assert (waiting.error.code, waiting.error.retriable, waiting.error.retry_after) == ("throttled", True, 4)
    ready = bench.manager.wait(export.id, 20)
    assert (ready.state, ready.error) == (ExportState.READY, None)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Bench]:
    with opened_bench(tmp_path, reconcile_seconds=3600, attach_deadline_seconds=600) as bench:
        yield bench


@pytest.mark.parametrize(
    "error",
    [AccessDenied("No token."), ConfigurationError("No such machine."), DeviceError("It may not be read.")],
    ids=lambda error: error.code,
)
def test_what_was_ready_once_is_retried_until_its_deadline(shelf: Bench, error: CloudManagerError) -> None:
    export = shelf.ready()
    shelf.shelf.failures["locate"] = [error] * 3
    shelf.kill_server(export)
    eventually(lambda: not shelf.shelf.failures["locate"])
    eventually(lambda: shelf.manager.get(export.id).state is ExportState.READY)
    assert content(shelf.manager.get(export.id))
    shelf.shelf.failures["locate"] = [error] * 10_000
    shelf.kill_server(export)
    eventually(lambda: shelf.manager.get(export.id).error)
    shelf.clock.ahead = 601
    failed = shelf.over(export)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (ExportState.FAILED, error.code)


@pytest.mark.parametrize(
    "error", [WrongZone("It is elsewhere."), DeviceMismatch("It is another one.")], ids=lambda error: error.code
)
def test_what_will_never_pass_ends_also_what_was_ready(shelf: Bench, error: CloudManagerError) -> None:
    export = shelf.ready()
    shelf.shelf.failures["locate"] = [error]
    shelf.kill_server(export)
    failed = shelf.over(export)
    assert failed.error is not None
    assert failed.error.code == error.code
