"""One change at a time to the data disks of a machine: Azure refuses a second one while the first runs."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloudmanager.core.errors import CloudUnavailable
from cloudmanager.linux.files import lock
from cloudmanager.providers._waiting import Deadline


class Turn:
    """A lock file per machine, so that threads, providers and processes share it."""

    def __init__(self, directory: Path, machine: str) -> None:
        """The directory exists."""
        self._file = directory / f"changes-{hashlib.sha256(machine.encode()).hexdigest()[:16]}.lock"

    @contextmanager
    def taken(self, deadline: Deadline) -> Iterator[None]:
        """Raises CloudUnavailable when it is not our turn by then."""
        with self._file.open("a") as file:
            if not lock(file.fileno(), deadline.left):
                raise CloudUnavailable(
                    f"For {deadline.seconds:g} s, other disks were being attached to this machine or detached from it; "
                    "Azure makes one such change at a time."
                )
            yield
