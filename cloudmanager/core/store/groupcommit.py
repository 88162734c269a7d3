"""Commits the changes of several writers together.

SQLite has one writer at a time, and a commit that a power cut cannot undo waits for the disk: a millisecond, or a
hundred on a busy one. A writer that has others waiting behind it leaves the commit to them, and the last one
commits for all. No caller gets a success before that.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from cloudmanager.core.errors import StoreLocked, StoreUnavailable

_TURN_SECONDS = 10
_MOST_WRITERS = 64
_LONGEST_SECONDS = 0.05
"""A row that does not end is committed after so many writers, or so much time."""
_LOOK_SECONDS = 0.1


class GroupCommit:
    """The writers of one SQLite database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        """Waiting for it is fair and immediate; waiting for SQLite's own lock is a sleep."""
        self._group: _Group | None = None
        self._waiting = 0
        self._counting = threading.Lock()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """What is written is durable at the end, or undone on an error, which leaves the others' changes alone.

        Raises StoreLocked, SQLAlchemyError.
        """
        with self._turn():
            group = self._group or self._begin()
            try:
                with group.share():
                    yield group.connection
            finally:
                self._go_on(group)
        self._await(group)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        self._count(1)
        has_turn = self._lock.acquire(timeout=_TURN_SECONDS)
        self._count(-1)
        if not has_turn:
            raise StoreLocked(f"Other writes have kept the store busy for {_TURN_SECONDS} s. Try again later.")
        try:
            yield
        finally:
            self._lock.release()

    def _count(self, change: int) -> None:
        with self._counting:
            self._waiting += change

    def _begin(self) -> "_Group":
        connection = self._engine.connect()
        try:
            connection.begin()
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # no event does it: it would cost at each statement
        except BaseException:
            connection.close()
            raise
        self._group = _Group(connection)
        return self._group

    def _go_on(self, group: "_Group") -> None:
        """With the next writer, or to the end."""
        if group.is_lost or not group.shares or group.is_long or not self._waiting:
            self._group = None
            group.end()

    def _await(self, group: "_Group") -> None:
        """Until somebody has committed it. Who was to do that may have given up waiting for its turn."""
        while not group.over.wait(_LOOK_SECONDS):
            if self._lock.acquire(blocking=False):
                try:
                    if self._group is group:
                        self._group = None
                        group.end()
                finally:
                    self._lock.release()
        if group.error is not None:
            raise group.error


class _Group:
    """A transaction that several writers share, one after the other."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.shares = 0
        """How many writers' changes are in it."""
        self.over = threading.Event()
        self.error: Exception | None = None
        """Why nothing of it was committed."""
        self._began = time.monotonic()

    @property
    def is_long(self) -> bool:
        return self.shares >= _MOST_WRITERS or time.monotonic() - self._began > _LONGEST_SECONDS

    @property
    def is_lost(self) -> bool:
        return self.error is not None

    @contextmanager
    def share(self) -> Iterator[None]:
        """Of one writer. The first needs no savepoint: there is no other write to keep."""
        try:
            with self.connection.begin_nested() if self.shares else nullcontext():
                yield
        except BaseException as error:
            if self.shares and not self._is_open:
                self.error = _reason(error)
            raise
        self.shares += 1

    def end(self) -> None:
        """Commits, or rolls back when the group has failed or is empty."""
        try:
            if self.shares and not self.is_lost:
                self.connection.commit()
        except BaseException as error:
            self.error = _reason(error)
            if not isinstance(error, SQLAlchemyError):
                raise
        finally:
            self.over.set()
            self.connection.close()

    @property
    def _is_open(self) -> bool:
        """Whether SQLite still has the transaction: it ends one by itself when the disk is full or fails."""
        connection = self.connection.connection.dbapi_connection
        return isinstance(connection, sqlite3.Connection) and connection.in_transaction


def _reason(error: BaseException) -> Exception:
    if isinstance(error, SQLAlchemyError):
        return error
    return StoreUnavailable("What was written was not kept, because another write was interrupted. Try again.")
