"""What the store cannot do for now is no fault of an export."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cloudmanager import Access
from cloudmanager.core.errors import StoreUnavailable
from cloudmanager.core.model import ExportState, Severity
from cloudmanager.core.records import ExportFilter
from tests.core.bench import Bench, content, opened_bench
from tests.waiting import eventually


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened_bench(tmp_path) as bench:
        yield bench


def _tell(bench: Bench, statement: str) -> None:
    path = bench.settings.server.state_dir / "cloudmanager.sqlite"
    with closing(sqlite3.connect(path)) as other, other:
        other.execute(statement)


def test_an_export_whose_server_dies_while_rows_are_damaged_comes_back_when_they_are_mended(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    export = bench.ready()
    _tell(bench, "UPDATE attachments SET plan = '{' || plan")
    bench.kill_server(export)
    eventually(lambda: [each for each in caplog.messages if "waits for the store" in each])
    assert bench.manager.get(export.id).state is ExportState.READY
    _tell(bench, "UPDATE attachments SET plan = substr(plan, 2)")
    eventually(lambda: bench.manager._exports._servers.is_alive(export.id))
    assert content(export)
    assert "Traceback" not in caplog.text


def test_a_store_that_cannot_be_written_is_not_ready_until_it_can(bench: Bench) -> None:
    assert _store_is_ready(bench)
    _tell(bench, "CREATE TRIGGER no_room BEFORE UPDATE ON nodes BEGIN SELECT RAISE(ABORT, 'no'); END")
    bench.clock.ahead = 31  # the next heartbeat writes
    eventually(lambda: not _store_is_ready(bench))
    _tell(bench, "DROP TRIGGER no_room")
    eventually(lambda: _store_is_ready(bench))


def test_a_write_that_failed_just_after_a_heartbeat_is_not_held_against_the_store_until_the_next_one(
    bench: Bench,
) -> None:
    eventually(lambda: [node for node in bench.manager.nodes() if node.seen_at > node.started_at])
    for what in ("UPDATE ON nodes", "INSERT ON exports"):
        table = what.rpartition(" ")[2]
        _tell(bench, f"CREATE TRIGGER no_room_in_{table} BEFORE {what} BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StoreUnavailable):
        bench.manager.export("one:b.img", Access.READ_ONLY, "bob")
    assert not _store_is_ready(bench)
    _tell(bench, "DROP TRIGGER no_room_in_nodes")
    eventually(lambda: _store_is_ready(bench))


def _store_is_ready(bench: Bench) -> bool:
    (store,) = [finding for finding in bench.manager.readiness() if finding.subject == "store"]
    return store.severity is Severity.OK


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_written_to_a_store_that_was_moved_away_and_it_goes_on_when_it_is_back(
    bench: Bench, tmp_path: Path, replaced: bool
) -> None:
    export = bench.ready()
    path = bench.settings.server.state_dir / "cloudmanager.sqlite"
    away = path.rename(tmp_path / "away")
    if replaced:
        path.touch()
    with pytest.raises(StoreUnavailable, match="moved, removed or replaced"):
        bench.manager.export("one:b.img", Access.READ_ONLY, "bob")
    assert not _store_is_ready(bench)
    assert path.exists() == replaced
    assert content(export)
    away.rename(path)
    assert _store_is_ready(bench)
    assert [each.id for each in bench.manager.list(ExportFilter()).items] == [export.id]
    assert bench.ready("one:b.img")
