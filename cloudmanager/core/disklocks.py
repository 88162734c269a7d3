"""One lock for each disk, shared by all services of this machine: no service detaches what another one serves.

A server holds the locks of its disk and of what that reads through, shared, or exclusively where it writes. It inherits
their descriptors, and so keeps them when its service dies. A service holds a disk's lock exclusively for the detach.
The locks are flock(2)'s: they belong to an open file and end with its last descriptor, however a process ends.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from cloudmanager.core.errors import AccessConflict, ConfigurationError, DiskInUse
from cloudmanager.core.model import FileIdentity
from cloudmanager.linux.files import try_lock

_DETACHING = "detaches it"
_LONGEST_NOTE = 4096


def default_directory() -> Path:
    """One for all services of root, one for those of any other user."""
    if os.geteuid() == 0:
        return Path("/run/lock/cloudmanager")
    return Path(os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}")) / "cloudmanager" / "lock"


class DiskLocks:
    """The locks in one directory. Thread-safe."""

    def __init__(self, directory: Path, descriptor: int, owner: str) -> None:
        self._path = directory
        self._directory = descriptor
        self._owner = owner
        self._nodes: list[int] = []

    @classmethod
    def open(cls, path: Path, owner: str) -> Self:
        """Makes the directory where it is missing. `owner` is how others name this service in their messages.

        Raises ConfigurationError for one in which anybody else could put or remove something.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(
                f"server.lock_dir: {path} cannot be used: {error.strerror}. Name a directory of this user, which all "
                "services of this machine that can reach the same disks have in common."
            ) from error
        if fault := _fault(os.fstat(descriptor)):
            os.close(descriptor)
            raise ConfigurationError(
                f"server.lock_dir: {path} {fault}: others could take the locks away. Correct that, or name another one."
            )
        return cls(path, descriptor, owner)

    def close(self) -> None:
        for descriptor in (*self._nodes, self._directory):
            os.close(descriptor)

    def hold_nodes(self, identities: Iterable[str]) -> None:
        """Until this is closed, no other service of this machine runs as one of these nodes.

        Raises ConfigurationError naming the one that does.
        """
        for identity in sorted(identities):
            try:
                self._nodes.append(self._open(identity, "node"))
            except DiskInUse as error:
                raise ConfigurationError(f"server.lock_dir: {error.detail}") from error
            if not try_lock(self._nodes[-1]):
                who = _note(self._nodes[-1]).get("who", "a service that left no name")
                raise ConfigurationError(
                    f"server.state_dir: of this directory and that of {who}, which runs, one is a copy of the other. "
                    "Stop that service, or begin with an empty directory."
                )
            self._leave_note(self._nodes[-1], "runs")

    @contextmanager
    def held(self, claims: Mapping[str, bool]) -> Iterator[tuple[int, ...]]:
        """Locks disks: canonical id, or `kernel_name` → whether exclusively.

        At the end they are released here, but not by a process that has inherited them.

        Raises AccessConflict where another service serves one in a way that excludes this, DiskInUse (retriable) while
        another service detaches one.
        """
        with ExitStack() as opened:
            descriptors = []
            for disk in sorted(claims):
                descriptors.append(self._open(disk))
                opened.callback(os.close, descriptors[-1])
                self._lock(descriptors[-1], disk, is_exclusive=claims[disk])
            yield tuple(descriptors)

    def held_again(self, claims: Mapping[str, bool]) -> tuple[int, ...]:
        """As far as that is possible, for a server that was found: it may hold them itself. The caller closes them."""
        descriptors = []
        for disk in sorted(claims):
            descriptor = self._open(disk)
            if try_lock(descriptor, is_shared=not claims[disk]):
                descriptors.append(descriptor)
            else:
                os.close(descriptor)
        return tuple(descriptors)

    @contextmanager
    def detaching(self, disk: str) -> Iterator[None]:
        """During the block no service of this machine serves the disk. Raises DiskInUse (retriable) if one does."""
        descriptor = self._open(disk)
        try:
            if not try_lock(descriptor):
                who = _note(descriptor)
                raise DiskInUse(
                    f"Another service on this machine serves it: {_said(who)}. It stays attached, and is detached when "
                    "nobody serves it any more.",
                    retriable=True,
                    holder=_said(who),
                )
            self._leave_note(descriptor, _DETACHING)
            yield
        finally:
            os.close(descriptor)

    def files(self, claims: Mapping[str, bool]) -> list[FileIdentity]:
        """The lock files of disks, as a server has them open."""
        found = []
        for disk in claims:
            descriptor = self._open(disk)
            status = os.fstat(descriptor)
            os.close(descriptor)
            found.append(FileIdentity(status.st_dev, status.st_ino))
        return found

    def _open(self, name: str, kind: str = "disk") -> int:
        """A file that is never removed: a service that had it open would lock a file that no other service finds."""
        name = f"{kind}-{hashlib.sha256(name.encode()).hexdigest()[:32]}.lock"
        try:
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._directory)
        except OSError as error:
            raise DiskInUse(
                f"The lock of a {kind} in {self._path} ([server] lock_dir) cannot be opened: {error.strerror}.",
                retriable=True,
            ) from error

    def _lock(self, descriptor: int, disk: str, *, is_exclusive: bool) -> None:
        if not try_lock(descriptor, is_shared=not is_exclusive):
            who = _note(descriptor)
            if who.get("does") == _DETACHING:
                raise DiskInUse(f"{_said(who)}, just now.", retriable=True, holder=_said(who))
            wanted = "read-write access needs it alone" if is_exclusive else "it is written to there"
            raise AccessConflict(
                f"Another service on this machine serves {disk}: {_said(who)}; {wanted}. Release its export.",
                holder=_said(who),
            )
        self._leave_note(descriptor, "serves it read-write" if is_exclusive else "serves it")

    def _leave_note(self, descriptor: int, does: str) -> None:
        """For people: of several who share the lock, it names the last one."""
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"who": self._owner, "does": does}).encode(), 0)


def kernel_name(identity: FileIdentity) -> str:
    """What the kernel knows a file or a block device by, for all containers alike; a partition has its disk's."""
    if identity.inode:
        return f"file {identity.inode} of device {_number(identity.device)}"
    number = _number(identity.device)
    with suppress(OSError):
        if Path(f"/sys/dev/block/{number}/partition").exists():
            number = Path(f"/sys/dev/block/{number}/../dev").read_text().strip()
    return f"block device {number}"


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _note(descriptor: int) -> dict[str, str]:
    try:
        document = json.loads(os.pread(descriptor, _LONGEST_NOTE, 0))
        return {str(key): str(value) for key, value in document.items()}
    except (ValueError, AttributeError):
        return {}


def _said(note: Mapping[str, str]) -> str:
    return f"{note.get('who', 'a service that left no name')} {note.get('does', 'serves it')}"


def _fault(status: os.stat_result) -> str:
    """Why a directory is not safe; empty where it is."""
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to user {status.st_uid}"
    if status.st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        return f"may be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""
