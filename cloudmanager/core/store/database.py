"""Transactions on SQLite or PostgreSQL, and the schema's migrations."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import alembic.command
import alembic.config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from cloudmanager.core.errors import ConfigurationError, MissingExtra, StoreUnavailable
from cloudmanager.core.store import faults, sqlite_file
from cloudmanager.core.store.groupcommit import GroupCommit

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCKED_SECONDS = 5
"""How long a write waits for another program's lock. It fails after this and its turn at the latest."""
_CONNECT_SECONDS = 10
_CACHE_KIB = 256
"""Of each connection to SQLite: what it does not keep is in the system's cache of files, once for all of them."""


class Database:
    """One engine; `read` and `write` are its transactions. What goes wrong in them arrives as StoreUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._group_commit = GroupCommit(engine)
        self._write_failure: StoreUnavailable | None = None
        self._path = sqlite_file.path_of(engine.url)
        self._file: tuple[int, int] | None = None
        """Which file the store is, once it is known to be one."""

    @classmethod
    def open(cls, url: str) -> Self:
        """Connects, and migrates to this version's schema. Raises StoreUnavailable, ConfigurationError."""
        database = cls(_engine(parsed(url)))
        try:
            database._refuse_damage()
            database._migrate()
            database._keep_identity()
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def look(cls, url: str | URL) -> Self:
        """Connects to what is there, only to read it, as it is. Raises ConfigurationError."""
        made = parsed(url)
        path = sqlite_file.path_of(made)
        if path is None:
            return cls(_engine(made))
        return cls(create_engine(made, creator=partial(sqlite_file.open_to_read, path)))

    def close(self) -> None:
        self._engine.dispose()

    @property
    def is_sqlite(self) -> bool:
        return self._is_sqlite

    @property
    def url(self) -> URL:
        return self._engine.url

    @property
    def write_failure(self) -> StoreUnavailable | None:
        """Why the last write failed; None once one has succeeded again."""
        return self._write_failure

    @contextmanager
    def read(self) -> Iterator[Connection]:
        self._refuse_moved()
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """As `read`, but all that is read in it is of one moment."""
        with self.read() as connection:
            if self._is_sqlite:
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Committed at the end, rolled back on an error. On SQLite it begins as the only writer."""
        self._refuse_moved()  # no failure of a write: a reader gets the error, too
        try:
            with (
                self._translated(),
                self._group_commit.write() if self._is_sqlite else self._engine.begin() as connection,
            ):
                yield connection
        except StoreUnavailable as error:
            self._write_failure = error
            raise
        self._write_failure = None

    def lock(self, connection: Connection, keys: Iterable[str], *, shared: bool = False) -> None:
        """Keeps other nodes out of the same keys until the transaction ends. SQLite's `write` has done so already.

        Those who lock a key `shared` keep out only those who do not.
        """
        if self._is_sqlite:
            return
        lock = text(f"SELECT pg_advisory_xact_lock{'_shared' if shared else ''}(:key)")
        for number in sorted({_lock_number(key) for key in keys}):
            connection.execute(lock, {"key": number})

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise faults.fault(error, self._engine.url) from error
        except ValueError as error:  # a row that was read is not one that we wrote
            message = str(error).splitlines()[0]
            raise faults.damaged(self._engine.url.render_as_string(hide_password=True), message) from error

    def _keep_identity(self) -> None:
        if self._path:
            self._file = sqlite_file.identity(self._path)

    def _refuse_moved(self) -> None:
        """Open connections would go on with a deleted file, new ones would make an empty one."""
        if self._path and self._file and sqlite_file.identity(self._path) != self._file:
            raise faults.moved(self._path)

    def _refuse_damage(self) -> None:
        """Takes a fifth of a second for a million audit events."""
        if not self._is_sqlite:
            return
        with self.read() as connection:
            message = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if message != "ok":
            raise faults.damaged(self._engine.url.database, message.splitlines()[-1])

    def _migrate(self) -> None:
        config = migrations()
        scripts = ScriptDirectory.from_config(config)
        with self.write() as connection:
            self.lock(connection, ["cloudmanager schema"])
            current = MigrationContext.configure(connection).get_current_revision()
            _refuse_newer(scripts, current)
            if current != scripts.get_current_head():
                config.attributes["connection"] = connection
                alembic.command.upgrade(config, "head")


def migrations() -> alembic.config.Config:
    """Alembic's configuration of our migrations. They run on its attribute `connection`."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def parsed(url: str | URL) -> URL:
    """The URL of a store. Raises ConfigurationError."""
    try:
        made = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("store.url is not a SQLAlchemy URL, such as sqlite:////path/file.sqlite.") from error
    if made.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigurationError(f"store.url: {made.get_backend_name()} is not supported; use sqlite or postgresql.")
    return made


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return _postgresql_engine(url)
    engine = create_engine(url, connect_args={"timeout": _LOCKED_SECONDS}, pool_size=8, max_overflow=64)
    event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _postgresql_engine(url: URL) -> Engine:
    with_timeout = url.set(query={"connect_timeout": str(_CONNECT_SECONDS), **url.query})
    try:
        engine = create_engine(with_timeout, pool_size=8, max_overflow=32, pool_pre_ping=True)
    except ImportError as error:
        raise MissingExtra(
            f"store.url needs {error.name}, which is not installed: pip install 'cloudmanager[postgres]'"
        ) from error
    event.listen(engine, "connect", _set_up_postgresql)
    return engine


def _set_up_postgresql(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{_LOCKED_SECONDS}s'")
    connection.commit()


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # The driver would begin deferred transactions of its own; what only reads sees one statement at a time.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"cache_size=-{_CACHE_KIB}"):
        connection.execute(f"PRAGMA {pragma}")


def _refuse_newer(scripts: ScriptDirectory, current: str | None) -> None:
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise ConfigurationError(
            f"The store has schema {current}, which this version does not know: a newer cloudmanager wrote it. "
            "Start that version, or restore a backup."
        )


def _lock_number(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], signed=True)
