"""What of a deployment is safely on its target, so that the next run need not write it again."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Self

from cloudmanager.client.deploy.bad_ranges import BadRanges
from cloudmanager.client.deploy.ends import Unit
from cloudmanager.client.deploy.errors import DeployError, TargetInUse
from cloudmanager.linux.files import open_private, try_lock
from cloudmanager.transfer.extents import Extent

_VERSION = 1


@dataclass(frozen=True)
class JournalHeader:
    """What a journal is about. It counts only for the same image, target and units."""

    source: str
    target: str
    size_bytes: int | None
    unit_bytes: int
    version: int = _VERSION


def default_directory() -> Path:
    """$XDG_STATE_HOME/cloudmanager/deployments, as the XDG Base Directory Specification has it."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "cloudmanager" / "deployments"


class Journal:
    """A file of JSON lines: a heading, then units as they become durable. One run at a time has it."""

    def __init__(self, directory: Path, header: JournalHeader) -> None:
        """Raises TargetInUse when another run writes to the same target, DeployError if nothing can be kept there."""
        name = hashlib.sha256(header.target.encode()).hexdigest()[:32]
        self.path = directory / f"{name}.jsonl"
        self._header = header
        self.written: dict[int, bytes] = {}
        """The units of earlier runs, with their checksums or without."""
        self.bad: list[Extent] = []
        """Ranges of the image that earlier runs could not read and skipped."""
        self.is_begun = False
        """Whether an earlier run has begun to write this image there."""
        self.left_on = ""
        """What the target was to an earlier run that has not finished, of this image or another one."""
        try:
            self._descriptor = open_private(self.path, os.O_APPEND)
        except OSError as error:
            raise DeployError(
                f"The journal {self.path} cannot be kept: {error.strerror}. Set XDG_STATE_HOME."
            ) from error
        self._lock(header.target)
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._descriptor)

    def begin(self, target: str) -> None:
        """Forgets what was written, of this image or another one. `target` is what it may be known by again."""
        self.written, self.left_on, self.bad = {}, target, []
        os.ftruncate(self._descriptor, 0)
        self._append(asdict(self._header))
        self._append({"left_on": target})

    def add(self, units: Mapping[int, bytes], bad: Iterable[Extent] = ()) -> None:
        """They are durable on the target, and with this in the journal. `bad`: what of the image is zeros there."""
        noted = {"bad": [[each.offset, each.length] for each in bad]} if bad else {}
        self._append({"units": {index: digests.hex() for index, digests in units.items()}, **noted})
        self.written.update(units)

    def forget(self) -> None:
        """The deployment is complete."""
        self.path.unlink(missing_ok=True)

    def _lock(self, target: str) -> None:
        is_ours = False
        with suppress(OSError):
            is_ours = try_lock(self._descriptor)
        if not is_ours:
            os.close(self._descriptor)
            raise TargetInUse(f"Another deployment onto {target} is running.")

    def _read(self) -> None:
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            whole = list(takewhile(_is_whole, file))
        os.ftruncate(self._descriptor, sum(map(len, whole)))  # what is added would continue a line that was cut off
        lines = list(map(json.loads, whole))
        self.left_on = next((str(line["left_on"]) for line in lines[1:2] if "left_on" in line), "")
        self.is_begun = bool(lines) and lines[0] == asdict(self._header)
        if self.is_begun:
            for line in lines[1:]:
                self.bad.extend(Extent(offset, length) for offset, length in line.get("bad", ()))
                units = line.get("units")
                if isinstance(units, dict):
                    self.written.update({int(index): bytes.fromhex(digests) for index, digests in units.items()})

    def _append(self, note: Mapping[str, object]) -> None:
        line = json.dumps(note).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise DeployError(f"The journal {self.path} cannot be written: {error.strerror}.") from error


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


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
