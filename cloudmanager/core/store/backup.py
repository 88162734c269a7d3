"""Backups of a SQLite store: made while the service runs, restored while it does not."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import URL

from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import InvalidRequest, StoreDamaged, StoreLocked, StoreUnavailable, UnsupportedStore
from cloudmanager.core.model import Finding, Severity
from cloudmanager.core.records import AttachmentRecord
from cloudmanager.core.settings import Settings
from cloudmanager.core.statedir import StateDirectory
from cloudmanager.core.store import faults, sqlite_file
from cloudmanager.core.store.check import check
from cloudmanager.core.store.database import parsed
from cloudmanager.core.store.store import Store
from cloudmanager.linux import files


@dataclass(frozen=True)
class Restored:
    """The result of a restore."""

    path: Path
    kept: Path | None
    """The previous store, if there was one."""
    disowned: tuple[AttachmentRecord, ...]
    """What was attached by us when the backup was made. It is not detached any more."""


def back_up(url: str, target: Path) -> None:
    """Writes a complete and checked copy, whole or not at all. The service may run and write meanwhile.

    Raises UnsupportedStore, InvalidRequest (the target), StoreUnavailable, StoreDamaged.
    """
    source = _file_of(url)
    if target.exists():
        raise InvalidRequest(f"{target} exists. Name a file that does not, or delete it first.")
    with _new_file(target.parent, target.name) as copy:
        _copy(source, copy)
        _require_consistent(copy, f"{source} is damaged, and so no backup was made")
        _put(copy, target)


def restore(settings: Settings, source: Path) -> Restored:
    """Replaces the store, once no service runs on the state directory.

    What is attached now need not be what was attached when the backup was made, so no attachment is ours any more.
    Raises UnsupportedStore, ConfigurationError (a service runs), StoreUnavailable, StoreDamaged.
    """
    path = _file_of(settings.store_url)
    if not source.is_file():
        raise InvalidRequest(f"{source} is not a file. Name one that `cloudmanager store backup` wrote.")
    state = StateDirectory.open(settings.server.state_dir, _owner(settings.server.state_dir))
    try:
        _require_consistent(source, f"{source} is damaged, and nothing was changed")
        with _new_file(path.parent, path.name) as copy:
            _copy(source, copy)
            disowned = _disown(copy, settings.server.node, f"restored from {source.absolute()}")
            return Restored(path, _replace(path, copy), disowned)
    finally:
        state.close()


def _owner(directory: Path) -> int:
    """Root may restore what another user's service then uses."""
    if os.geteuid() == 0:
        with suppress(OSError):
            return directory.stat().st_uid
    return os.geteuid()


def _file_of(url: str) -> Path:
    made = parsed(url)
    path = sqlite_file.path_of(made)
    if path is None:
        raise UnsupportedStore(_advice_for(made))
    return path


def _advice_for(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return "The store is in the memory of its service: there is no file to copy."
    server = URL.create("postgresql", url.username, None, url.host, url.port, url.database).render_as_string()
    return (
        f"The store is in PostgreSQL, which has its own tools: pg_dump --format=custom --file=FILE '{server}' makes a "
        f"backup, pg_restore --clean --if-exists --dbname='{server}' FILE brings it back. "
        "What else a restore takes is in docs/operating.md, under PostgreSQL."
    )


@contextmanager
def _new_file(directory: Path, name: str) -> Iterator[Path]:
    """Private, and deleted at the end unless it was renamed."""
    try:
        descriptor, made = tempfile.mkstemp(dir=directory, prefix=f".{name}.")
    except OSError as error:
        raise InvalidRequest(f"{directory} cannot be written: {error.strerror}. Name another directory.") from error
    os.close(descriptor)
    try:
        yield Path(made)
    finally:
        sqlite_file.delete(Path(made))


def _copy(source: Path, copy: Path) -> None:
    """In one step, so that a service that writes meanwhile does not make it start again."""
    try:
        with closing(sqlite_file.open_to_read(source)) as there, closing(sqlite3.connect(copy)) as here:
            there.backup(here)
        sqlite_file.make_single(copy)
    except sqlite3.Error as error:
        fault = faults.of_sqlite(error, copy)
        if isinstance(fault, StoreDamaged | StoreLocked):
            fault = faults.of_sqlite(error, source)
        raise fault from error


def _require_consistent(path: Path, message: str) -> None:
    problems = [finding for finding in check(sqlite_file.url_of(path)) if finding.severity is Severity.PROBLEM]
    if problems:
        raise StoreDamaged(f"{message}: {_first(problems)} `cloudmanager store check` shows everything.")


def _first(problems: list[Finding]) -> str:
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{problems[0].subject}: {problems[0].seen}{more}."


def _disown(copy: Path, node: str, why: str) -> tuple[AttachmentRecord, ...]:
    """Migrates the copy, too."""
    store = Store.open(f"sqlite:///{copy}", Clock())
    try:
        disowned = tuple(store.disown(node, why))
    finally:
        store.close()
    sqlite_file.make_single(copy)
    return disowned


def _replace(path: Path, copy: Path) -> Path | None:
    """Returns where the previous store is kept."""
    try:
        if os.geteuid() == 0:  # the service may run as another user
            owner = path.parent.stat()
            os.chown(copy, owner.st_uid, owner.st_gid)
        kept = _set_aside(path)
        _put(copy, path)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be replaced: {error.strerror}.") from error
    return kept


def _set_aside(path: Path) -> Path | None:
    """Keeps the store under another name as well. Raises StoreLocked while anything has it open."""
    if not path.exists():
        for stray in sqlite_file.companions(path):
            stray.rename(f"{stray}.kept-{_stamp()}")  # it must not come to belong to another file
        return None
    kept = path.with_name(f"{path.name}.kept-{_stamp()}")
    try:
        sqlite_file.require_readable(path)  # SQLite would throw away the log of what it cannot read
        sqlite_file.make_single(path)
    except sqlite3.Error as error:
        fault = faults.of_sqlite(error, path)
        if not isinstance(fault, StoreDamaged):
            raise fault from error
        for companion in sqlite_file.companions(path):
            companion.rename(companion.with_name(companion.name.replace(path.name, kept.name)))
    kept.hardlink_to(path)
    return kept


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def _put(copy: Path, target: Path) -> None:
    """Under its name, in one step that survives a power loss."""
    files.sync(copy)
    copy.rename(target)
    files.sync(target.parent)
