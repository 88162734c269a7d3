"""Backups: whole and checked, made beside a service that writes, brought back without claiming what is not ours."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cloudmanager import Access
from cloudmanager.core.errors import (
    ConfigurationError,
    InvalidRequest,
    StoreDamaged,
    StoreLocked,
    UnsupportedStore,
)
from cloudmanager.core.model import AttachmentState, ExportState, Severity
from cloudmanager.core.records import ExportFilter
from cloudmanager.core.settings import Settings, from_tables
from cloudmanager.core.statedir import StateDirectory
from cloudmanager.core.store import Store
from cloudmanager.core.store.backup import back_up, restore
from cloudmanager.core.store.check import check
from tests.core.bench import Bench, content, opened_bench
from tests.core.schemas.kept import Kept
from tests.core.schemas.rows import StoppedClock, fill
from tests.waiting import eventually

ADVICE = "pg_dump --format=custom --file=FILE 'postgresql://user@db.example/cloudmanager'"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened_bench(tmp_path, linger_seconds=60) as bench:
        yield bench
        bench.clock.ahead = 1000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return from_tables({"server": {"state_dir": str(tmp_path / "state"), "node": "here"}})


@pytest.fixture
def filled(settings: Settings) -> Path:
    """A store with rows of every kind, that nobody uses."""
    settings.server.state_dir.mkdir()
    store = Store.open(settings.store_url, StoppedClock())
    fill(store)
    store.close()
    return settings.server.state_dir / "cloudmanager.sqlite"


def _ids(path: Path) -> list[str]:
    store = Store.open(f"sqlite:///{path}", StoppedClock())
    ids = [each.id for each in store.exports.page(ExportFilter(), None, 1000).items]
    store.close()
    return ids


def test_a_backup_is_one_private_file_that_is_in_order(settings: Settings, filled: Path, tmp_path: Path) -> None:
    back_up(settings.store_url, tmp_path / "backup")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "state"]
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
    assert {each.severity for each in check(f"sqlite:///{tmp_path}/backup")} == {Severity.OK}
    assert _ids(tmp_path / "backup") == _ids(filled)


def test_every_backup_of_a_store_that_is_being_written_is_of_one_moment(bench: Bench, tmp_path: Path) -> None:
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            export = bench.manager.export("one:a.img", Access.READ_ONLY, "alice")
            bench.manager.release(export.id)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(5):
            back_up(bench.settings.store_url, tmp_path / f"{number}.sqlite")  # raises if it is not in order
    finally:
        done.set()
        thread.join()


def test_a_backup_overwrites_nothing(settings: Settings, filled: Path, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("Dear Alice")
    with pytest.raises(InvalidRequest, match="letter exists"):
        back_up(settings.store_url, tmp_path / "letter")
    assert (tmp_path / "letter").read_text() == "Dear Alice"


def test_of_a_store_that_is_not_in_order_no_backup_is_made(settings: Settings, filled: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(filled)) as other, other:
        other.execute("DELETE FROM claims")
    with pytest.raises(StoreDamaged, match="no backup was made: claims"):
        back_up(settings.store_url, tmp_path / "backup")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_place_that_cannot_be_written_is_named(settings: Settings, filled: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="none cannot be written: No such file or directory"):
        back_up(settings.store_url, tmp_path / "none" / "backup")


@pytest.mark.parametrize("access", list(Access))
def test_after_a_restore_exports_go_on_and_what_is_attached_is_left_alone(
    bench: Bench, tmp_path: Path, access: Access
) -> None:
    export = bench.ready(access=access)
    back_up(bench.settings.store_url, tmp_path / "backup")
    bench.manager.close()
    restored = restore(bench.settings, tmp_path / "backup")
    assert [str(each.plan.disk.id) for each in restored.disowned] == ["one:a.img"]
    bench.open()
    assert bench.manager.get(export.id).uri == export.uri
    assert content(export)
    assert [each.state for each in bench.manager.attachments()] == [AttachmentState.FOREIGN]
    bench.end(export)
    eventually(lambda: not bench.manager.attachments())
    assert "detach shelf:a.img" not in bench.shelf.calls


def test_exports_that_a_backup_does_not_know_end_and_their_disk_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    back_up(bench.settings.store_url, tmp_path / "backup")
    unknown = bench.ready("writable:a.img", Access.READ_WRITE)
    server = Path(f"/proc/{bench.server_pid(unknown)}/cmdline")
    assert unknown.name in server.read_text()
    bench.manager.close()
    restore(bench.settings, tmp_path / "backup")
    bench.shelf.foreign.add("shelf:a.img")  # as a cloud tells of what is attached and was not planned
    bench.open()
    assert not server.exists() or unknown.name not in server.read_text()
    assert [*(tmp_path / "state" / "exports").iterdir()] == []
    other = bench.ready("writable:a.img", Access.READ_WRITE, "bob")
    bench.end(other)
    eventually(lambda: not bench.manager.attachments())
    assert bench.shelf.attached == {"shelf:a.img"}
    bench.shelf.attached.clear()


def test_a_restore_says_so_in_the_audit_trail_and_keeps_the_store_of_before(
    settings: Settings, filled: Path, tmp_path: Path
) -> None:
    back_up(settings.store_url, tmp_path / "backup")
    store = Store.open(settings.store_url, StoppedClock())
    newest = store.exports.page(ExportFilter(states=frozenset({ExportState.READY})), None, 1).items[0]
    store.exports.set_over(newest.id, ExportState.CLOSED)
    store.close()
    restored = restore(settings, tmp_path / "backup")
    assert restored.kept is not None
    for path, state in ((filled, ExportState.READY), (restored.kept, ExportState.CLOSED)):
        opened = Store.open(f"sqlite:///{path}", StoppedClock())
        assert opened.exports.get(newest.id).state is state
        events = [each.event for each in opened.trail.events(None, 100).items]
        assert ("store.restored" in events) == (path == filled)
        opened.close()


def test_a_damaged_store_is_replaced_and_kept_with_its_log(settings: Settings, filled: Path, tmp_path: Path) -> None:
    back_up(settings.store_url, tmp_path / "backup")
    filled.write_bytes(b"\xff" * 10000)
    log = filled.with_name(f"{filled.name}-wal")
    log.write_bytes(b"of the damaged one")
    restored = restore(settings, tmp_path / "backup")
    assert restored.kept is not None
    assert restored.kept.read_bytes() == b"\xff" * 10000
    assert restored.kept.with_name(f"{restored.kept.name}-wal").read_bytes() == b"of the damaged one"
    assert {each.severity for each in check(settings.store_url)} == {Severity.OK}


def test_a_store_that_is_gone_comes_back_without_a_stray_log(settings: Settings, filled: Path, tmp_path: Path) -> None:
    back_up(settings.store_url, tmp_path / "backup")
    filled.unlink()
    filled.with_name(f"{filled.name}-wal").write_bytes(b"of the lost one")
    assert restore(settings, tmp_path / "backup").kept is None
    assert {each.severity for each in check(settings.store_url)} == {Severity.OK}


def test_a_backup_of_an_earlier_version_is_migrated(settings: Settings, filled: Path, tmp_path: Path) -> None:
    Kept("0001", "sqlite").load(f"sqlite:///{tmp_path}/backup")
    restore(settings, tmp_path / "backup")
    assert {each.severity for each in check(settings.store_url)} == {Severity.OK}


def test_nothing_is_restored_while_a_service_runs(settings: Settings, filled: Path, tmp_path: Path) -> None:
    back_up(settings.store_url, tmp_path / "backup")
    before = filled.read_bytes()
    service = StateDirectory.open(settings.server.state_dir)
    with pytest.raises(ConfigurationError, match="another cloudmanager runs"):
        restore(settings, tmp_path / "backup")
    service.close()
    assert filled.read_bytes() == before


def test_nothing_is_restored_while_a_program_has_the_store_open(
    settings: Settings, filled: Path, tmp_path: Path
) -> None:
    back_up(settings.store_url, tmp_path / "backup")
    other = Store.open(settings.store_url, StoppedClock())
    other.nodes.all()
    with pytest.raises(StoreLocked, match="fuser"):
        restore(settings, tmp_path / "backup")
    other.close()
    assert sorted(path.name for path in filled.parent.iterdir()) == ["cloudmanager.sqlite", "lock"]


@pytest.mark.parametrize("arguments", [b"", b"Dear Alice", b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_backup_changes_nothing(settings: Settings, filled: Path, tmp_path: Path, arguments: bytes) -> None:
    before = filled.read_bytes()
    (tmp_path / "backup").write_bytes(arguments)
    with pytest.raises(StoreDamaged, match="nothing was changed"):
        restore(settings, tmp_path / "backup")
    assert filled.read_bytes() == before
    assert sorted(path.name for path in filled.parent.iterdir()) == ["cloudmanager.sqlite", "lock"]


def test_a_backup_may_have_any_name(settings: Settings, filled: Path, tmp_path: Path) -> None:
    odd = tmp_path / "50% of it? #1 & 'more'"
    back_up(settings.store_url, odd)
    assert restore(settings, odd).kept is not None


def test_a_backup_that_is_not_there_is_named(settings: Settings, filled: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="none is not a file"):
        restore(settings, tmp_path / "none")


def test_for_a_database_server_its_own_tools_are_named(tmp_path: Path) -> None:
    url = "postgresql+psycopg://user:secret@db.example/cloudmanager"
    with pytest.raises(UnsupportedStore) as caught:
        back_up(url, tmp_path / "backup")
    assert ADVICE in caught.value.detail
    assert "secret" not in caught.value.detail


def test_a_store_in_memory_has_no_backup(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedStore, match="memory"):
        back_up("sqlite://", tmp_path / "backup")
