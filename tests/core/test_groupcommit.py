"""Writers that wait for each other are committed together, and fail alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from cloudmanager.core.errors import StoreLocked, StoreUnavailable
from cloudmanager.core.store import groupcommit
from cloudmanager.core.store.groupcommit import GroupCommit

WRITERS = 5
Body = Callable[[Connection], None]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/store.sqlite", connect_args={"timeout": 1})
    event.listen(engine, "connect", lambda connection, _record: setattr(connection, "isolation_level", None))
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE words (word TEXT UNIQUE)")
    yield engine
    engine.dispose()


@pytest.fixture
def commits(engine: Engine) -> list[Connection]:
    made: list[Connection] = []
    event.listen(engine, "commit", made.append)
    return made


@pytest.fixture
def group(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> GroupCommit:
    monkeypatch.setattr(groupcommit, "_LONGEST_SECONDS", 60)  # else a busy machine ends a row in the middle
    return GroupCommit(engine)


def add(word: str) -> Body:
    return lambda connection: connection.exec_driver_sql("INSERT INTO words VALUES (?)", (word,)).close()


def write(group: GroupCommit, body: Body) -> None:
    with group.write() as connection:
        body(connection)


def arguments(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.exec_driver_sql("SELECT word FROM words").scalars())


def in_a_row(group: GroupCommit, *bodies: Body) -> list[Future[None]]:
    """What became of the writers: each comes while the one before it writes."""
    written: list[Future[None]] = []

    def come(number: int) -> None:
        def body(connection: Connection) -> None:
            if number + 1 < len(bodies):
                come(number + 1)
                while not group._waiting:
                    time.sleep(0)  # it comes to its turn in a moment
            bodies[number](connection)

        written.append(pool.submit(write, group, body))

    with ThreadPoolExecutor(len(bodies)) as pool:
        come(0)
        for number in range(len(bodies)):
            wait([written[number]])
    return written


def test_writers_that_wait_share_one_commit(group: GroupCommit, engine: Engine, commits: list[Connection]) -> None:
    names = [f"w{number}" for number in range(WRITERS)]
    written = in_a_row(group, *map(add, names))
    assert [each.result() for each in written] == [None] * WRITERS
    assert arguments(engine) == set(names)
    assert len(commits) == 1


def test_a_writer_that_is_alone_commits_at_once(group: GroupCommit, engine: Engine, commits: list[Connection]) -> None:
    write(group, add("one"))
    write(group, add("two"))
    assert arguments(engine) == {"one", "two"}
    assert len(commits) == 2


def test_nobody_is_told_of_a_success_before_the_commit(group: GroupCommit, engine: Engine) -> None:
    seen: list[set[str]] = []

    def reported(connection: Connection) -> None:
        add("second")(connection)
        seen.append(arguments(engine))

    written = in_a_row(group, add("first"), reported)
    assert [each.result() for each in written] == [None, None]
    assert seen == [set()]


def test_a_writer_that_fails_leaves_the_changes_of_the_others_alone(group: GroupCommit, engine: Engine) -> None:
    def fail(connection: Connection) -> None:
        add("undone")(connection)
        add("first")(connection)

    first, failed, last = in_a_row(group, add("first"), fail, add("last"))
    assert isinstance(failed.exception(), IntegrityError)
    assert (first.result(), last.result()) == (None, None)
    assert arguments(engine) == {"first", "last"}


def test_a_first_writer_that_fails_leaves_nothing(group: GroupCommit, engine: Engine) -> None:
    def fail(connection: Connection) -> None:
        add("undone")(connection)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write(group, fail)
    write(group, add("next"))
    assert arguments(engine) == {"next"}


def test_when_sqlite_ends_the_transaction_everybody_in_it_is_told(group: GroupCommit, engine: Engine) -> None:
    """As it does when the disk is full or fails."""

    def end(connection: Connection) -> None:
        connection.exec_driver_sql("ROLLBACK")
        add("outside")(connection)
        add("outside")(connection)

    lost, failed, kept = in_a_row(group, add("lost"), end, add("kept"))
    assert isinstance(failed.exception(), SQLAlchemyError)
    assert isinstance(lost.exception(), SQLAlchemyError | StoreUnavailable)
    assert kept.result() is None
    assert "kept" in arguments(engine)
    assert "lost" not in arguments(engine)


def test_who_gives_up_waiting_leaves_nobody_without_a_commit(
    group: GroupCommit, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of the row was to commit for the others."""
    monkeypatch.setattr(groupcommit, "_TURN_SECONDS", 0.2)
    goes_on = threading.Event()

    def slow(connection: Connection) -> None:
        add("slow")(connection)
        goes_on.wait(10)
        group._waiting += 1  # somebody who comes and goes

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(write, group, slow)
        while group._group is None:
            pass
        given_up = pool.submit(write, group, add("given up"))
        assert isinstance(given_up.exception(10), StoreLocked)
        goes_on.set()
        assert first.result(10) is None
    assert arguments(engine) == {"slow"}


def test_a_row_that_does_not_end_is_committed_now_and_then(
    group: GroupCommit, engine: Engine, commits: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groupcommit, "_MOST_WRITERS", 2)
    in_a_row(group, *(add(f"w{number}") for number in range(WRITERS)))
    assert len(arguments(engine)) == WRITERS
    assert len(commits) == 3
