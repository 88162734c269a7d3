"""The device names or LUNs of one machine: chosen under one lock, and not used again at once."""

import fcntl
import hashlib
import json
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO

from cloudmanager.core.errors import AttachLimit, ConfigurationError


class Slots:
    """What this machine's attachments are called by the cloud.

    The lock and the memory are one file per machine in `directory`, so that threads, providers and processes share
    them. A slot that was chosen is not chosen again for `rest`, whether it was used or not: EBS leaves a volume stuck
    "attaching" under a name that was in use a moment ago, and a plan that was made a moment ago may still be carried
    out.
    """

    def __init__(self, directory: Path, machine: str, rest: timedelta) -> None:
        """Raises ConfigurationError when the directory cannot be used."""
        self._file = directory / f"slots-{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json"
        self._rest = rest
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigurationError(
                f"lock_dir {directory} cannot be made: {error.strerror}. Set lock_dir to one that may be written."
            ) from error

    def free(self, slot: str) -> None:
        """It may be chosen again at once: what had it is gone for good, or never got it."""
        with self.locked() as memory:
            memory.chosen.pop(slot, None)

    @contextmanager
    def locked(self) -> Iterator["Memory"]:
        """The lock of this machine; look at the cloud's list of taken slots while holding it."""
        with self._file.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            memory = Memory(_read(file), self._rest)
            yield memory
            _write(file, memory.chosen)


class Memory:
    """Which slots were chosen lately. Valid while the lock is held."""

    def __init__(self, chosen: dict[str, float], rest: timedelta) -> None:
        now = time.time()
        self.chosen = {slot: at for slot, at in chosen.items() if 0 <= now - at < rest.total_seconds()}

    def choose(self, candidates: Iterable[str], taken: Collection[str]) -> str:
        """The first candidate that is neither taken nor resting; when all that are free rest, the longest rested.

        Raises AttachLimit when all are taken.
        """
        free = [slot for slot in candidates if slot not in taken]
        if not free:
            raise AttachLimit("Every device name or LUN of this machine is taken: detach a disk that is not needed.")
        slot = next((slot for slot in free if slot not in self.chosen), None)
        slot = slot or min(free, key=self.chosen.__getitem__)
        self.chosen[slot] = time.time()
        return slot


def _read(file: IO[str]) -> dict[str, float]:
    file.seek(0)
    try:
        return {str(slot): float(at) for slot, at in json.load(file).items()}
    except (ValueError, AttributeError):
        return {}  # new, or cut short by a crash: the cloud's own list is what counts


def _write(file: IO[str], chosen: dict[str, float]) -> None:
    file.seek(0)
    file.truncate()
    json.dump(chosen, file)
    file.flush()
