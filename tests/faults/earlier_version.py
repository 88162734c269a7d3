"""A store as the version before this one would have left it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import alembic.command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from cloudmanager.core.store import sqlite_file
from cloudmanager.core.store.database import migrations


def revision_before_head() -> str | None:
    """None: this version's schema is the first."""
    scripts = ScriptDirectory.from_config(migrations())
    before = scripts.get_revision("head").down_revision
    assert before is None or isinstance(before, str)
    return before


def revision_of(path: Path) -> str:
    """The schema of a store."""
    with closing(sqlite3.connect(path)) as store:
        return str(store.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def set_back(path: Path, revision: str) -> None:
    """What is in the store, in the schema of that revision. No service may run."""
    older = path.with_name("older.sqlite")
    _make(older, revision)
    sqlite_file.make_single(path)
    with closing(sqlite3.connect(older)) as connection:
        connection.execute("ATTACH DATABASE ? AS newer", (str(path),))
        tables = [name for (name,) in connection.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")]
        with connection:
            for table in tables:
                if table != "alembic_version":
                    columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
                    connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}")  # noqa: S608 - names of our own
    older.replace(path)


def _make(path: Path, revision: str) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = migrations()
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, revision)
    engine.dispose()
