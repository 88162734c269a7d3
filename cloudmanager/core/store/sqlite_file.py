"""The file of a SQLite store."""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL

_LOCKED_SECONDS = 5
_COMPANIONS = ("-wal", "-shm", "-journal")


def path_of(url: URL) -> Path | None:
    """None where the store is not a file: another engine's, or one in memory."""
    name = url.database or ""
    if url.get_backend_name() != "sqlite" or not name or name.startswith((":", "file:")):
        return None
    return Path(name)


def identity(path: Path) -> tuple[int, int] | None:
    """Which file it is, whatever its name; None when there is none, or when that cannot be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def url_of(path: Path) -> URL:
    """Whatever characters the path has."""
    return URL.create("sqlite", database=str(path.absolute()))


def open_to_read(path: Path) -> sqlite3.Connection:
    """The file is neither made nor changed. Raises sqlite3.Error."""
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    return sqlite3.connect(address, uri=True, timeout=_LOCKED_SECONDS, isolation_level=None, check_same_thread=False)


def require_readable(path: Path) -> None:
    """Raises sqlite3.Error."""
    with closing(open_to_read(path)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()


def make_single(path: Path) -> None:
    """Checkpoints the write-ahead log, so that the file alone is the store.

    Raises sqlite3.Error when somebody else has it open, or when it is damaged.
    """
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE").fetchone()


def companions(path: Path) -> list[Path]:
    """SQLite's other files of the store, where there are any. They belong to this very file."""
    found = [path.with_name(path.name + ending) for ending in _COMPANIONS]
    return [each for each in found if each.exists()]


def delete(path: Path) -> None:
    """With its companions."""
    for each in (*companions(path), path):
        with suppress(FileNotFoundError):
            each.unlink()
