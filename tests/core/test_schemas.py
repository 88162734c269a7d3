"""Migrations: from every schema that there has been, no row is lost."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import alembic.command
import psycopg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, create_engine, inspect, select

from cloudmanager.core.model import CONFIRMED, Severity
from cloudmanager.core.records import ExportFilter
from cloudmanager.core.store import Store, schema
from cloudmanager.core.store.check import check
from cloudmanager.core.store.database import migrations
from tests.core.schemas.kept import Kept, all_kept
from tests.core.schemas.rows import StoppedClock

Row = Mapping[str, Any]
NewDatabase = Callable[[str], str]
KEPT = all_kept()
EVERY = pytest.mark.parametrize("kept", KEPT, ids=str)
HOW_TO_KEEP = "`make keep-schema` keeps one of the newest schema"


@pytest.fixture
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewDatabase]:
    """`new_database("postgresql")` is the URL of an empty one."""
    numbers = itertools.count()
    dropped: list[tuple[str, str]] = []

    def made(engine: str) -> str:
        number = next(numbers)
        if engine == "sqlite":
            return f"sqlite:///{tmp_path}/{number}.sqlite"
        server = str(request.getfixturevalue("postgres_url"))
        name = f"schemas_{abs(hash(tmp_path)):x}_{number}"
        with psycopg.connect(server.replace("+psycopg", "") + "/postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        dropped.append((server, name))
        return f"{server}/{name}"

    yield made
    for server, name in dropped:
        with psycopg.connect(server.replace("+psycopg", "") + "/postgres", autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}"')


def _revisions() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(migrations()).walk_revisions()}


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_of_every_schema_a_store_is_kept(engine: str) -> None:
    assert {kept.revision for kept in KEPT if kept.engine == engine} == _revisions(), HOW_TO_KEEP


@EVERY
def test_a_kept_store_has_rows_in_every_table(kept: Kept, new_database: NewDatabase) -> None:
    url = new_database(kept.engine)
    kept.load(url)
    assert [name for name, rows in _raw(url).items() if not rows] == [], HOW_TO_KEEP


@EVERY
def test_a_kept_store_has_the_schema_that_the_migrations_make(kept: Kept, new_database: NewDatabase) -> None:
    url, fresh = new_database(kept.engine), new_database(kept.engine)
    kept.load(url)
    _migrate(fresh, kept.revision)
    assert _shape(url) == _shape(fresh), f"a released migration was changed; or, before its release: {HOW_TO_KEEP}"


@EVERY
def test_every_row_of_a_kept_store_is_read_back_after_the_upgrade(kept: Kept, new_database: NewDatabase) -> None:
    url = new_database(kept.engine)
    kept.load(url)
    before = _raw(url)
    store = Store.open(url, StoppedClock())
    for table, rows in before.items():
        found = _READERS[table](store)
        assert len(found) == len(rows)
        for row in rows:
            assert [each for each in found if _has(each, row, table)], f"{table} has lost {row}"
    store.close()
    assert [finding for finding in check(url) if finding.severity is not Severity.OK] == []


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_what_was_ours_before_proofs_were_kept_is_still_ours(engine: str, new_database: NewDatabase) -> None:
    url = new_database(engine)
    Kept("0002", engine).load(url)
    store = Store.open(url, StoppedClock())
    proofs = {str(record.state): record.plan.proof for record in store.attachments.all()}
    store.close()
    assert proofs == {
        "planned": "",
        "attaching": "",
        "attached": CONFIRMED,
        "detaching": CONFIRMED,
        "stuck": CONFIRMED,
        "foreign": "",
    }


def test_every_table_is_read_back() -> None:
    assert set(_READERS) == set(schema.metadata.tables)


def _raw(url: str) -> dict[str, list[Row]]:
    """What is in each table, as the database has it."""
    engine = create_engine(url)
    reflected = MetaData()
    reflected.reflect(engine)
    with engine.connect() as connection:
        rows: dict[str, list[Row]] = {
            table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in reflected.sorted_tables
            if table.name != "alembic_version"
        }
    engine.dispose()
    return rows


def _migrate(url: str, revision: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        config = migrations()
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, revision)
    engine.dispose()


def _shape(url: str) -> dict[str, object]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = _tables(connection)
    engine.dispose()
    return found


def _tables(connection: Connection) -> dict[str, object]:
    looked = inspect(connection)
    return {
        name: (
            [{**column, "type": str(column["type"])} for column in looked.get_columns(name)],
            looked.get_pk_constraint(name),
            looked.get_foreign_keys(name),
            sorted(looked.get_indexes(name), key=str),
            sorted(looked.get_unique_constraints(name), key=str),
        )
        for name in sorted(looked.get_table_names())
    }


def _has(found: object, row: Row, table: str) -> bool:
    """Whether what was read has all that the row had. It may have more, which a migration has added."""
    return all(_is_same(_field(found, table, name), value) for name, value in row.items() if name not in _UNSEEN)


_UNSEEN = {"over_at", "over_boottime", "identity", "machine", "session", "alive_until"}
"""Read by the store's own statements only."""


def _field(found: object, table: str, name: str) -> object:
    value = _derived(found, table, name) if not hasattr(found, name) else getattr(found, name)
    column = schema.metadata.tables[table].c[name]
    return column.type.process_bind_param(value, None) if isinstance(column.type, schema.Json) else value  # type: ignore[arg-type] # it needs no dialect


def _derived(found: object, table: str, name: str) -> object:
    """Columns that a record has as a part of another."""
    disk = found.plan.disk if table == "attachments" else found.disk  # type: ignore[attr-defined] # of these two tables
    return str(disk.id) if name == "disk_id" else disk.canonical_id


def _is_same(found: object, value: object) -> bool:
    match found, value:
        case datetime(), datetime():
            return found == (value if value.tzinfo else value.replace(tzinfo=UTC))
        case str(), str() if value.startswith("{"):
            return _includes(json.loads(found), json.loads(value))
        case _:
            return found == value


def _includes(found: object, value: object) -> bool:
    match found, value:
        case dict(), dict():
            return all(name in found and _includes(found[name], each) for name, each in value.items())
        case list(), list():
            return sorted(found, key=str) == sorted(value, key=str)
        case _:
            return found == value


class _Key:
    """A row of the idempotency keys, by what it does."""

    def __init__(self, store: Store, key: str, digest: str) -> None:
        self.key, self.digest = key, digest
        replayed = store.claims.replayed(key, digest)
        self.export_id = replayed and replayed.id


class _Pause:
    def __init__(self, provider: str, pause: object) -> None:
        self.provider, self.pause = provider, pause


_READERS: dict[str, Callable[[Store], list[Any]]] = {
    "exports": lambda store: list(store.exports.page(ExportFilter(), None, 1000).items),
    "claims": lambda store: list(store.contents().claims),
    "idempotency_keys": lambda store: [_Key(store, "a key of the client's", "0" * 64)],
    "attachments": lambda store: store.attachments.all(),
    "nodes": lambda store: store.nodes.all(),
    "audit_events": lambda store: list(store.trail.events(None, 1000).items),
    "pauses": lambda store: [_Pause(*each) for each in store.maintenance.pauses().items()],
}
