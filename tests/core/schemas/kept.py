"""Stores as each schema's own version has written them, kept as SQL beside this file."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg

DIRECTORY = Path(__file__).parent
_NOT_ROWS = re.compile(r"^(--.*|\\.*|SET .*|SELECT pg_catalog\.set_config.*|)\n", re.MULTILINE)
"""What pg_dump adds: remarks, commands for psql, settings that an older server may not know."""


@dataclass(frozen=True)
class Kept:
    """A store of one schema, for one engine."""

    revision: str
    engine: str

    @property
    def path(self) -> Path:
        return DIRECTORY / f"{self.revision}.{self.engine}.sql"

    def __str__(self) -> str:
        return f"{self.revision}-{self.engine}"

    def load(self, url: str) -> None:
        """Into an empty database."""
        sql = self.path.read_text(encoding="utf-8")
        if self.engine == "sqlite":
            with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
                connection.executescript(sql)
        else:
            with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as server:
                server.execute(sql.encode())

    def dump(self, url: str) -> None:
        self.path.write_text(_dumped(url), encoding="utf-8")


def all_kept() -> list[Kept]:
    found = [path.name.split(".") for path in sorted(DIRECTORY.glob("*.sql"))]
    return [Kept(revision, engine) for revision, engine, _ in found]


def _dumped(url: str) -> str:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            return "\n".join(connection.iterdump()) + "\n"
    command = ["pg_dump", "--inserts", "--no-owner", "--no-privileges", url.replace("+psycopg", "")]
    return _NOT_ROWS.sub("", subprocess.run(command, check=True, capture_output=True, text=True).stdout)
