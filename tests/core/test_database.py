"""What an operator is told when the database does not do its work. Full and read-only file systems: tests/faults."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import insert, text

from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import StoreDamaged, StoreFull, StoreLocked, StoreReadOnly, StoreUnavailable
from cloudmanager.core.store import Store, groupcommit, schema
from cloudmanager.core.store import database as database_module
from cloudmanager.core.store.database import Database

PAGE = 4096
Damage = Callable[[bytearray], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{path}")
    yield opened
    opened.close()


@pytest.fixture
def server_url(postgres_url: str, tmp_path: Path) -> str:
    """Of an empty database."""
    name = f"d{abs(hash(tmp_path)):x}"
    with psycopg.connect(postgres_url.replace("+psycopg", "") + "/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{postgres_url}/{name}"


@pytest.fixture
def server(server_url: str) -> Iterator[Database]:
    opened = Database.open(server_url)
    yield opened
    opened.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of waiting shows what ten would."""
    monkeypatch.setattr(database_module, "_LOCKED_SECONDS", 1)
    monkeypatch.setattr(groupcommit, "_TURN_SECONDS", 1)


def _write(database: Database, name: str = "here") -> None:
    now = Clock().now()
    with database.write() as connection:
        connection.execute(insert(schema.nodes).values(name=name, boot_id="", started_at=now, seen_at=now))


def _names(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(text("SELECT name FROM nodes")).scalars())


def test_a_write_that_waits_for_another_programs_lock_says_so_and_the_next_one_goes_on(
    impatient: None, database: Database, path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLocked, match=f"fuser {path}") as caught:
            _write(database)
        assert caught.value.retriable
        assert database.write_failure is caught.value
        assert _names(database) == []
    _write(database)
    assert database.write_failure is None


def test_a_write_does_not_wait_for_its_turn_for_ever(impatient: None, database: Database) -> None:
    began, done = threading.Event(), threading.Event()

    def keep_busy() -> None:
        with database.write():
            began.set()
            done.wait(30)

    thread = threading.Thread(target=keep_busy)
    thread.start()
    began.wait(30)
    with pytest.raises(StoreLocked, match="busy for 1 s"):
        _write(database)
    done.set()
    thread.join()
    _write(database)


def _overwrite_header(content: bytearray) -> None:
    content[:100] = b"\xff" * 100


def _overwrite_a_page_in_the_middle(content: bytearray) -> None:
    middle = len(content) // PAGE // 2 * PAGE
    content[middle : middle + PAGE] = b"\xff" * PAGE


def _cut_the_end(content: bytearray) -> None:
    del content[len(content) // 2 :]


@pytest.mark.parametrize("damage", [_overwrite_header, _overwrite_a_page_in_the_middle, _cut_the_end])
def test_a_damaged_store_is_not_opened_and_what_to_do_is_said(path: Path, damage: Damage) -> None:
    Database.open(f"sqlite:///{path}").close()
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    with pytest.raises(StoreDamaged, match=r"store check.*store restore") as caught:
        Database.open(f"sqlite:///{path}")
    assert str(path) in caught.value.detail
    assert not caught.value.retriable
    assert path.read_bytes() == content


def test_a_row_that_nobody_can_have_written_is_damage(path: Path) -> None:
    store = Store.open(f"sqlite:///{path}", Clock())
    with closing(sqlite3.connect(path)) as other, other:
        other.execute(
            "INSERT INTO attachments VALUES ('here', 'disk', '{', 'attached', '2026-01-01', NULL, NULL, NULL)"
        )
    with pytest.raises(StoreDamaged, match="store check"):
        store.attachments.all()
    store.close()


def test_a_place_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=f"{tmp_path}/none/store.*No such file or directory"):
        Database.open(f"sqlite:///{tmp_path}/none/store")


def test_a_look_at_a_store_cannot_change_it(database: Database, path: Path) -> None:
    _write(database)
    look = Database.look(f"sqlite:///{path}")
    assert _names(look) == ["here"]
    with pytest.raises(StoreReadOnly):
        _write(look, "there")
    look.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_snapshot_is_of_one_moment(request: pytest.FixtureRequest, kind: str) -> None:
    database = request.getfixturevalue("database" if kind == "sqlite" else "server")
    with database.snapshot() as connection:
        assert connection.execute(text("SELECT count(*) FROM nodes")).scalar_one() == 0
        _write(database)
        assert connection.execute(text("SELECT count(*) FROM nodes")).scalar_one() == 0
    assert _names(database) == ["here"]


def test_on_a_server_too_a_lock_is_not_waited_for_for_ever(impatient: None, server_url: str) -> None:
    database = Database.open(server_url)
    with psycopg.connect(server_url.replace("+psycopg", "")) as other:
        other.execute("LOCK TABLE nodes")
        with pytest.raises(StoreLocked, match="pg_locks"):
            _write(database)
    _write(database)
    database.close()


@pytest.mark.parametrize(
    ("state", "expected"),
    [("53100", StoreFull), ("25006", StoreReadOnly), ("XX001", StoreDamaged), ("57P01", StoreUnavailable)],
)
def test_what_a_server_complains_of_is_told_apart(
    server: Database, state: str, expected: type[StoreUnavailable]
) -> None:
    with pytest.raises(StoreUnavailable, match="could not do it") as caught, server.write() as connection:
        connection.exec_driver_sql(f"DO $$ BEGIN RAISE 'could not do it' USING ERRCODE = '{state}'; END $$")
    assert type(caught.value) is expected
    _write(server)


def test_a_server_that_takes_no_writes_is_read_only(server: Database, server_url: str) -> None:
    with psycopg.connect(server_url.replace("+psycopg", ""), autocommit=True) as other:
        other.execute(f'ALTER DATABASE "{other.info.dbname}" SET default_transaction_read_only = on')
    server.close()  # its next connection meets it
    with pytest.raises(StoreReadOnly, match="standby"):
        _write(server)
