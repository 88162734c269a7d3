"""`store check` finds what is wrong, and says nothing of a store that is in order."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from cloudmanager.core.model import Severity
from cloudmanager.core.records import Contents, DiskClaim
from cloudmanager.core.store import Store
from cloudmanager.core.store.check import SHOWN, check, contradictions
from tests.core.schemas.kept import Kept
from tests.core.schemas.rows import StoppedClock, fill

PAGE = 4096


@pytest.fixture
def filled(url: str) -> str:
    """A store with rows of every kind."""
    _fill(url)
    return url


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The same on SQLite."""
    _fill(f"sqlite:///{tmp_path}/store.sqlite")
    return tmp_path / "store.sqlite"


def _fill(url: str) -> None:
    store = Store.open(url, StoppedClock())
    fill(store)
    store.close()


def _change(url: str, statement: str) -> None:
    """What no transaction of ours does."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute(statement)
    else:
        with psycopg.connect(url.replace("+psycopg", "")) as server:
            server.execute(statement.encode())


def _problems(url: str) -> list[tuple[str, str]]:
    return [(each.subject, each.seen) for each in check(url) if each.severity is Severity.PROBLEM]


def test_a_store_in_order_has_no_problem_also_while_it_is_written(filled: str) -> None:
    writing = Store.open(filled, StoppedClock())
    findings = list(check(filled))
    writing.close()
    assert {each.severity for each in findings} == {Severity.OK}
    subjects = [each.subject for each in findings if each.subject not in ("integrity", "foreign keys")]
    assert subjects == ["store", "schema", "exports", "claims", "attachments", "audit trail"]


@pytest.mark.parametrize(
    ("statement", "subject", "seen"),
    [
        ("DELETE FROM claims", "claims", "is ready and claims nothing; it should claim cloud:base, cloud:disk-2 alone"),
        ("UPDATE claims SET is_exclusive = true", "claims", "one of them excludes the others"),
        ("UPDATE exports SET state = 'closed' WHERE state = 'closing'", "claims", "it should claim nothing"),
        (
            "UPDATE exports SET state = 'closed' WHERE state = 'closing'",
            "audit trail",
            "happened to it is export.closing",
        ),
        ("DELETE FROM audit_events", "audit trail", "the last that happened to it is nothing"),
        ("UPDATE exports SET server = NULL WHERE state = 'ready'", "exports", "is ready without a server"),
        ("UPDATE exports SET port = 10901", "exports", "are both on port 10901"),
        ("UPDATE exports SET canonical_id = 'cloud:disk-9' WHERE state = 'ready'", "exports", "is filed under"),
        ("UPDATE attachments SET canonical_id = 'cloud:disk-9' WHERE state = 'stuck'", "exports", "is filed under"),
        (
            """UPDATE attachments SET plan = replace(plan, '"is_present":false', '"is_present":true')""",
            "attachments",
            "attached instead of foreign",
        ),
        ("UPDATE exports SET disk = '[]' WHERE state = 'ready'", "store", "is damaged"),
        ("ALTER TABLE exports DROP COLUMN note", "schema", "note"),
        ("UPDATE alembic_version SET version_num = '9999'", "schema", "which this version does not know"),
    ],
)
def test_what_no_transaction_of_ours_leaves_is_found(filled: str, statement: str, subject: str, seen: str) -> None:
    _change(filled, statement)
    assert [each for each in _problems(filled) if each[0] == subject and seen in each[1]]


def test_of_many_mistakes_of_a_kind_some_are_shown() -> None:
    claims = tuple(
        DiskClaim(export, f"disk-{number}", True) for number in range(SHOWN + 7) for export in ("one", "other")
    )
    problems = [each for each in contradictions(Contents((), claims, (), {}, ())) if each.subject == "claims"]
    assert len(problems) == SHOWN + 1
    assert problems[-1].seen == "7 more of this kind"


def test_a_reference_to_nothing_is_found(path: Path) -> None:
    _change(f"sqlite:///{path}", "DELETE FROM exports WHERE state = 'ready'")
    assert ("foreign keys", "row 6 of claims refers to no row of exports") in _problems(f"sqlite:///{path}")


def test_a_damaged_page_is_found(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(5 * PAGE)
        file.write(b"\xff" * PAGE)
    subjects = {subject for subject, _ in _problems(f"sqlite:///{path}")}
    assert "integrity" in subjects


def test_what_is_no_database_is_found(path: Path) -> None:
    path.write_text("Dear diary,\n" * 1000)
    assert ("integrity", "file is not a database") in _problems(f"sqlite:///{path}")


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    (problem,) = _problems(f"sqlite:///{tmp_path}/none")
    assert problem[1] == f"{tmp_path}/none does not exist"
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert _problems(f"sqlite:///{tmp_path}/empty") == [("schema", "none: this is not a store of cloudmanager")]


def test_a_store_of_an_earlier_version_is_a_warning(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/old"
    Kept("0001", "sqlite").load(url)
    last = list(check(url))[-1]
    assert (last.subject, last.severity) == ("schema", Severity.WARNING)
    assert "Make a backup first" in last.advice
