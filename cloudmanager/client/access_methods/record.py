"""Records each step on this machine before it is taken, and undoes the steps in reverse, also after a crash.

Each use of an access method has its own directory, locked as long as its worker runs: the kernel drops the lock
with the last process that has it. Unlike a pid, a lock works across containers and cannot be reused.
What is written down is known by paths inside that directory, or by inode: never by a number that may be used again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from cloudmanager.client.access_methods.errors import AccessFailed, NotUndone, Outcome
from cloudmanager.client.access_methods.steps import KINDS, UndoStep
from cloudmanager.client.errors import ClientError
from cloudmanager.linux.files import try_lock
from cloudmanager.linux.mounts import mount_points_below

RUN_DIRECTORY = "CLOUDMANAGER_RUN_DIR"
"""The environment variable that names where records are kept."""
_STEPS = "steps"
_OF_EXPORT = "export-"
"""Sorted behind the names of the other records, which begin with a number."""


class Record:
    """What one use of an access method has set up. Its directory is private, and holds keys and mount points too."""

    def __init__(self, directory: Path, lock: int) -> None:
        self.directory = directory
        self._lock = lock
        self._pid = os.getpid()

    @classmethod
    def begin(cls, *, of_export: bool = False) -> Self:
        """Raises AccessFailed when there is no place for it. An export's is undone after its access methods'."""
        kind = _OF_EXPORT if of_export else ""
        with _locked_run_directory() as run:
            directory = Path(tempfile.mkdtemp(prefix=f"{kind}{os.getpid()}-", dir=run))
            return cls(directory, _lock(directory))

    @classmethod
    def take_over(cls, directory: Path) -> Self | None:
        """The record of a worker that has ended. None: it still runs."""
        try:
            return cls(directory, _lock(directory))
        except BlockingIOError:
            return None

    def note(self, step: UndoStep) -> None:
        """To be called before the step is taken: what was noted and not done is undone without harm."""
        with (self.directory / _STEPS).open("a") as file:
            file.write(json.dumps({"kind": type(step).__name__, **asdict(step)}) + "\n")

    def undo(self) -> list[Outcome]:
        """Everything in reverse. What fails does not keep the rest; then the record stays."""
        if os.getpid() != self._pid:  # a forked child leaves the with statement of its parent
            return []
        outcomes = [_undone(step) for step in reversed(self._steps())]
        if all(outcome.is_undone for outcome in outcomes):
            outcomes += self._remove()
        self.leave()
        return outcomes

    def forget(self) -> None:
        """There is nothing to undo any more."""
        if os.getpid() == self._pid:
            with suppress(OSError):  # then `cleanup` finds that it was undone
                self._remove()
            self.leave()

    def leave(self) -> None:
        """Leaves the record to `cleanup`."""
        os.close(self._lock)

    def _steps(self) -> list[UndoStep]:
        try:
            lines = (self.directory / _STEPS).read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        written = [json.loads(line) for line in lines if line.endswith("\n")]  # the last may have been cut by a crash
        return [KINDS[fields.pop("kind")](**fields) for fields in written]

    def _remove(self) -> list[Outcome]:
        """Never removes what is below a mount point."""
        left = mount_points_below(self.directory)
        if left:
            return [Outcome(str(self.directory), f"{left[0]} is still mounted")]
        shutil.rmtree(self.directory)
        return []


@contextmanager
def recorded() -> Iterator[Record]:
    """A record, undone at the end. Raises NotUndone, unless another error is on its way: that gets a note."""
    record = Record.begin()
    try:
        yield record
    except BaseException as error:
        for outcome in _failures(record.undo()):
            error.add_note(f"not undone: {outcome.what}: {outcome.error}")
        raise
    if failures := _failures(record.undo()):
        failed = "; ".join(f"{outcome.what}: {outcome.error}" for outcome in failures)
        raise NotUndone(
            f"not everything could be undone ({failed}); `cloudmanager cleanup` tries again", outcomes=failures
        )


def cleanup() -> list[Outcome]:
    """Undoes what workers of this user left behind that ended without doing it themselves. Leaves live ones alone.

    Exports are released too, with the token of CLOUDMANAGER_TOKEN: none is kept on the machine.

    Returns what was undone and what could not be. Kernel NBD connections and loop devices are not among it: the kernel
    ends those with the process or the mount that had them.
    """
    with _locked_run_directory() as run:
        records = [Record.take_over(entry) for entry in sorted(run.iterdir()) if entry.is_dir()]
    return [outcome for record in records if record for outcome in record.undo()]


def run_directory() -> Path:
    """`$CLOUDMANAGER_RUN_DIR`; else a directory that does not survive a reboot, as far as the machine has one."""
    if chosen := os.environ.get(RUN_DIRECTORY):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/run/cloudmanager-client")
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(session, "cloudmanager")
    return Path(tempfile.gettempdir(), f"cloudmanager-{os.geteuid()}")


@contextmanager
def _locked_run_directory() -> Iterator[Path]:
    """Nobody begins a record meanwhile, so that one without its lock is not taken for a dead worker's."""
    directory = run_directory()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise AccessFailed(
            f"{directory} cannot be used: {error}; set {RUN_DIRECTORY} to a private directory"
        ) from error
    try:
        _require_private(directory, os.fstat(descriptor))
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield directory.resolve()
    finally:
        os.close(descriptor)


def _require_private(directory: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise AccessFailed(f"{directory} can be changed by others; set {RUN_DIRECTORY} to a private directory")


def _lock(directory: Path) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    if not try_lock(descriptor):
        os.close(descriptor)
        raise BlockingIOError
    return descriptor


def _undone(step: UndoStep) -> Outcome:
    try:
        step.undo()
    except (ClientError, OSError) as error:
        return Outcome(str(step), str(error))
    return Outcome(str(step))


def _failures(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if not outcome.is_undone]
