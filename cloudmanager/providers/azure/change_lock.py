"""One change at a time to the data disks of a machine: Azure refuses a second one while the first runs."""

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cloudmanager.core.errors import CloudUnavailable
from cloudmanager.providers._waiting import Deadline, TimedOut, wait_for

LOOK_SECONDS = 0.2


class Turn:
    """A lock file per machine, so that threads, providers and processes share it."""

    def __init__(self, directory: Path, machine: str) -> None:
        """The directory exists."""
        self._file = directory / f"changes-{hashlib.sha256(machine.encode()).hexdigest()[:16]}.lock"

    @contextmanager
    def taken(self, deadline: Deadline) -> Iterator[None]:
        """Raises CloudUnavailable when it is not our turn by then."""
        with self._file.open("a") as file:
            try:
                wait_for(lambda: _try_lock(file), timeout=deadline.left, interval=LOOK_SECONDS, first=0.01)
            except TimedOut:
                raise CloudUnavailable(
                    f"For {deadline.seconds:g} s, other disks were being attached to this machine or detached from it; "
                    "Azure makes one such change at a time."
                ) from None
            yield


def _try_lock(file: IO[str]) -> bool | None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return True
