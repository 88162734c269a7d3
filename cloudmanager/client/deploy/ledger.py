"""Which units are written, and which of them are safe."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cloudmanager.client.deploy.bad_ranges import BadRanges
from cloudmanager.client.deploy.journal import Journal
from cloudmanager.client.deploy.units import Unit

COMMIT_SECONDS = 2.0
"""A killed run repeats at most what it wrote in about this time."""


@dataclass(frozen=True)
class _Copied:
    digests: bytes
    content_bytes: int


class Ledger:
    """A unit is finished when the target has acknowledged it, and durable after a flush. For several threads."""

    def __init__(self, journal: Journal, bad: BadRanges, *, believes_journal: bool) -> None:
        """With `believes_journal` the checksums of an earlier run are still those of the image."""
        self._journal = journal
        self._bad = bad
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._finished: dict[Unit, _Copied] = {}
        self._being_flushed: dict[Unit, _Copied] = {}
        self._last_commit = time.monotonic()
        self.digests: dict[int, bytes] = dict(journal.written) if believes_journal else {}
        """Of every unit whose bytes went through here, by its index; empty where none were asked for."""
        self.done_bytes = 0
        """Content, read and dealt with; it runs back when work is lost."""
        self.written_bytes = 0
        self.skipped_bytes = 0

    def expected(self, unit: Unit) -> bytes:
        """The checksums with which an earlier run wrote it."""
        return self._journal.written.get(unit.index, b"")

    def count(self, done_bytes: int, written_bytes: int) -> None:
        with self._lock:
            self.done_bytes += done_bytes
            self.written_bytes += written_bytes

    def skip(self, unit: Unit) -> None:
        """It was found written by an earlier run."""
        with self._lock:
            self.done_bytes += unit.extent.length
            self.skipped_bytes += unit.extent.length

    def finish(self, unit: Unit, digests: bytes, content_bytes: int) -> None:
        with self._lock:
            self._finished[unit] = _Copied(digests, content_bytes)
            self.digests[unit.index] = digests

    def lost(self) -> list[Unit]:
        """A connection ended. What was not flushed may be gone with its server, and is no longer finished."""
        with self._lock:
            lost = self._finished | self._being_flushed
            self._finished, self._being_flushed = {}, {}
            self.done_bytes -= sum(copied.content_bytes for copied in lost.values())
            return list(lost)

    def commit_if_due(self, flush: Callable[[], None]) -> None:
        """Unless another thread is at it."""
        if time.monotonic() - self._last_commit < COMMIT_SECONDS or not self._committing.acquire(blocking=False):
            return
        try:
            self._commit(flush)
        finally:
            self._committing.release()

    def commit(self, flush: Callable[[], None]) -> None:
        """Makes what is finished durable, and notes it. `flush` covers the writes of every connection."""
        with self._committing:
            self._commit(flush)

    def _commit(self, flush: Callable[[], None]) -> None:
        with self._lock:
            batch = self._being_flushed = self._being_flushed | self._finished  # the last flush may have failed
            self._finished = {}
        flush()
        with self._lock:
            self._last_commit = time.monotonic()
            if self._being_flushed is not batch:
                return
            self._being_flushed = {}
            # The first unit lacks its head until the end, so it is never done before.
            durable = {unit.index: copied.digests for unit, copied in batch.items() if unit.index}
            if durable:
                self._journal.add(durable, self._bad.all())
