"""The directory that one service owns."""

import errno
import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Self

from cloudmanager.core.errors import ConfigurationError
from cloudmanager.core.private_directory import file_flaws, flaws, tighten
from cloudmanager.linux import files

_LOCK = "lock"
_LOCK_SECONDS = 5.0


class StateDirectory:
    """Holds the store and what running exports need. Locked: two services on one directory would fight."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path, owner: int | None = None) -> Self:
        """Makes the directory where it is missing, makes it private, and locks it. Raises ConfigurationError.

        It has to be this user's, or `owner`'s. A service that was killed, or a process that it was just starting, may
        hold the lock for a moment more.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            flaw = tighten(flaws(path, os.geteuid() if owner is None else owner))
            if flaw:
                raise ConfigurationError(f"server.state_dir: {flaw}")
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"server.state_dir: {path} cannot be used: {error.strerror}. {_advice(error)}"
            ) from error
        if not files.lock(lock, _LOCK_SECONDS):
            os.close(lock)
            raise ConfigurationError(
                f"server.state_dir: another cloudmanager runs on {path}. Stop it, or use another directory."
            )
        return cls(path, lock)

    @property
    def exports(self) -> Path:
        """Where each export keeps what belongs to it alone: its scratch overlay, key and log."""
        return self.path / "exports"

    @property
    def last_seen(self) -> Path:
        """The file with the clocks as they were when the service was last seen alive."""
        return self.path / "last-seen.json"

    @property
    def identity(self) -> Path:
        """The file that says who the node of this directory is."""
        return self.path / "identity.json"

    def node(self) -> str:
        """The name of the node when a service was last started here; empty before the first."""
        try:
            return (self.path / "node").read_text()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ConfigurationError(f"{self.path / 'node'} cannot be read: {error.strerror}.") from error

    def keep_node(self, name: str) -> None:
        """Raises ConfigurationError."""
        file = self.path / "node"
        try:
            files.write_whole(file, name)
        except OSError as error:
            raise ConfigurationError(f"{file} cannot be written: {error.strerror}. {_advice(error)}") from error

    def of_providers(self) -> Path:
        """Where the providers keep what must outlast the service. Raises ConfigurationError."""
        directory = self._providers
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{directory} cannot be made: {error.strerror}. {_advice(error)}") from error
        return directory

    def put_providers_aside(self) -> None:
        """What they have kept is another machine's. Raises ConfigurationError."""
        aside = self._providers.with_name(f"providers-of-another-machine-{secrets.token_hex(4)}")
        try:
            with suppress(FileNotFoundError):
                self._providers.rename(aside)
        except OSError as error:
            raise ConfigurationError(
                f"{self._providers} cannot be renamed: {error.strerror}. {_advice(error)}"
            ) from error

    @property
    def _providers(self) -> Path:
        return self.path / "providers"

    def leftovers(self, live: Collection[str]) -> list[str]:
        """Ids of the exports that keep something here and are not among the live ones."""
        if not self.exports.is_dir():
            return []
        return sorted(path.name for path in self.exports.iterdir() if path.name not in live)

    def close(self) -> None:
        os.close(self._lock)


def service_pid(path: Path) -> int | None:
    """The process whose service owns a state directory, as the kernel's list of locks has it. None if none is seen."""
    try:
        lock = (path / _LOCK).stat()
        held = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in held:
        _, kind, _, _, pid, where, *_ = line.split()  # 1: FLOCK ADVISORY WRITE 4711 fe:00:2674509 0 EOF
        if kind == "FLOCK" and int(where.rpartition(":")[2]) == lock.st_ino and _has_open(int(pid), lock):
            return int(pid)
    return None


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    """The device in the list of locks is another one than stat's on file systems without one of their own (Btrfs)."""
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        return True  # another user's
    except OSError:
        return False
    for link in links:
        with suppress(OSError):
            if os.path.samestat(link.stat(), wanted):
                return True
    return False


def secure_store(file: Path) -> None:
    """Makes a SQLite store's file where it is missing, and it and what belongs to it private: it need not be in here.

    Raises ConfigurationError. A file that cannot be looked at is left to the code that opens it and reports why.
    """
    with suppress(OSError):
        with suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(file, flags, 0o600))
        companions = (file.with_name(file.name + ending) for ending in ("-wal", "-shm", "-journal"))
        for each in (file, *(path for path in companions if os.path.lexists(path))):
            if flaw := tighten(file_flaws(each, os.geteuid())):
                raise ConfigurationError(f"The store: {flaw}")


def _advice(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "Make room there."
        case errno.EROFS:
            return "Mount its file system read-write; the kernel's log says why it is not."
        case _:
            return "Name a directory that this user may write, or make it."
