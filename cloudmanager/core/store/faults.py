"""What an error of the database means for the operator of the service."""

import errno
import sqlite3
import tempfile
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from cloudmanager.core.errors import StoreDamaged, StoreFull, StoreLocked, StoreReadOnly, StoreUnavailable

_PRIMARY = 0xFF
"""SQLite's extended error codes carry the primary one in their lowest byte: https://www.sqlite.org/rescode.html"""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def fault(error: SQLAlchemyError, url: URL) -> StoreUnavailable:
    """One of our errors for it, with what to do about it."""
    cause = getattr(error, "orig", None) or error
    message = str(cause).strip().splitlines()[0]
    if isinstance(cause, sqlite3.Error) and url.database:
        return of_sqlite(cause, Path(url.database))
    return _of_server(getattr(cause, "sqlstate", None) or "", message)


def damaged(path: object, message: str) -> StoreDamaged:
    return StoreDamaged(
        f"{path} is damaged: {message}. Stop the service, look with `cloudmanager store check`, "
        "and restore a backup with `cloudmanager store restore`."
    )


def moved(path: Path) -> StoreUnavailable:
    """What is written to a file that has lost its name is found by no later service."""
    return StoreUnavailable(
        f"{path} was moved, removed or replaced under the running service. Bring it back there; or stop the service, "
        "and restore a backup with `cloudmanager store restore`."
    )


def _full(directory: Path) -> StoreFull:
    return StoreFull(f"No space is left in {directory}. Make room there; the service goes on by itself.")


def _read_only(directory: Path) -> StoreReadOnly:
    return StoreReadOnly(
        f"{directory} takes no writes: its file system is read-only, or this user may not write there. "
        "The kernel's log says why a file system became read-only."
    )


def of_sqlite(error: sqlite3.Error, path: Path) -> StoreUnavailable:
    """What went wrong with the store in that file."""
    message = str(error)
    match getattr(error, "sqlite_errorcode", 0) & _PRIMARY:
        case sqlite3.SQLITE_FULL:
            return _full(path.parent)
        case sqlite3.SQLITE_READONLY:
            return _read_only(path.parent)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreLocked(f"Another program keeps {path} locked. Close it; `fuser {path}` names what has it open.")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(path, message)
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN:
            return _of_file_system(message, path)
        case _:
            return StoreUnavailable(f"The store did not answer: {message}.")


def _of_file_system(message: str, path: Path) -> StoreUnavailable:
    """SQLite does not say why a file operation failed. Another operation in the same directory does."""
    try:
        with tempfile.TemporaryFile(dir=path.parent, buffering=0) as file:
            file.write(bytes(4096))
    except OSError as error:
        if error.errno in _NO_SPACE:
            return _full(path.parent)
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return _read_only(path.parent)
        message = f"{message} ({error.strerror})"
    return StoreUnavailable(f"{path} cannot be used: {message}. The kernel's log may say more.")


def _of_server(state: str, message: str) -> StoreUnavailable:
    """By SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html"""
    answer = f"The database server says: {message}."
    match state:
        case "53100":
            return StoreFull(f"{answer} Make room on it; the service goes on by itself.")
        case "25006":
            return StoreReadOnly(f"{answer} Is it a standby? The store needs the primary server.")
        case "55P03":
            return StoreLocked(f"{answer} pg_locks shows who holds the lock.")
        case "XX001" | "XX002":
            return StoreDamaged(f"{answer} Restore its backup with pg_restore.")
        case _:
            return StoreUnavailable(f"The store did not answer: {message}.")
