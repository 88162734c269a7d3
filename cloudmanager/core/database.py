"""Transactions on SQLite or PostgreSQL, and the schema's migrations."""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import alembic.command
import alembic.config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from cloudmanager.core.errors import ConfigurationError, MissingExtra, StoreUnavailable

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_SECONDS = 30


class Database:
    """One engine; `read` and `write` are its transactions. What goes wrong in them arrives as StoreUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = engine.execution_options(is_write=True)
        self._is_sqlite = engine.dialect.name == "sqlite"
        # SQLite has one writer: waiting for it here is fair and immediate, waiting for its lock is a sleep.
        self._writer = threading.RLock()

    @classmethod
    def open(cls, url: str) -> Self:
        """Connects, and migrates to this version's schema. Raises StoreUnavailable, ConfigurationError."""
        database = cls(_engine(_parsed(url)))
        try:
            database._migrate()
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with _translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Committed at the end, rolled back on an error. On SQLite it begins as the only writer."""
        with self._writer if self._is_sqlite else nullcontext(), _translated(), self._writing.begin() as connection:
            yield connection

    def lock(self, connection: Connection, keys: Iterable[str]) -> None:
        """Keeps other nodes out of the same keys until the transaction ends. SQLite's `write` has done so already."""
        if self._is_sqlite:
            return
        for number in sorted({_lock_number(key) for key in keys}):
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": number})

    def _migrate(self) -> None:
        config = alembic.config.Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        scripts = ScriptDirectory.from_config(config)
        with self.write() as connection:
            self.lock(connection, ["cloudmanager schema"])
            current = MigrationContext.configure(connection).get_current_revision()
            _refuse_newer(scripts, current)
            if current != scripts.get_current_head():
                config.attributes["connection"] = connection
                alembic.command.upgrade(config, "head")


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("store.url is not a SQLAlchemy URL, such as sqlite:////path/file.sqlite.") from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigurationError(f"store.url: {parsed.get_backend_name()} is not supported; use sqlite or postgresql.")
    return parsed


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        try:
            return create_engine(url, pool_size=8, max_overflow=32, pool_pre_ping=True)
        except ImportError as error:
            raise MissingExtra(
                f"store.url needs {error.name}, which is not installed: pip install 'cloudmanager[postgres]'"
            ) from error
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_SECONDS}, pool_size=8, max_overflow=64)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin deferred transactions of its own
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get("is_write"):  # what only reads sees one statement at a time
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise StoreUnavailable(f"The store did not answer: {str(cause).strip().splitlines()[0]}.") from error


def _refuse_newer(scripts: ScriptDirectory, current: str | None) -> None:
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise ConfigurationError(
            f"The store has schema {current}, which this version does not know: a newer cloudmanager wrote it. "
            "Start that version, or restore a backup."
        )


def _lock_number(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], signed=True)
