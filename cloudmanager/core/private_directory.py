"""A directory that only its owner can read, write or replace: checked through open files, tightened, or refused.

What is only too open, and ours, is tightened. What belongs to somebody else, or leads elsewhere, may have been put
there by an attacker who wants the service to read or overwrite something, so it is not used.
"""

import logging
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_OTHERS = 0o077
_NOTE = "name"
_OVERFLOW_UID = Path("/proc/sys/kernel/overflowuid")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Flaw:
    """Something that keeps a directory from being private, and what to do."""

    path: Path
    seen: str
    advice: str
    mode: int | None = None
    """What `tighten` gives it; None where that is not for us to decide."""

    def __str__(self) -> str:
        return f"{self.path} {self.seen}. {self.advice}"


def flaws(directory: Path, owner: int) -> Iterator[Flaw]:
    """Of the directory, of all that is in it and of what leads to it. Nothing is changed. Raises OSError."""
    yield from ancestor_flaws(directory, directory.parent, owner)
    found = directory.lstat()
    if stat.S_ISLNK(found.st_mode):
        yield _link(directory)
        return
    yield from _of_entry(directory, found, owner)
    yield from _of_content(directory, owner)


def file_flaws(file: Path, owner: int) -> Iterator[Flaw]:
    """Of one file elsewhere, and of what leads to it. Raises OSError."""
    yield from ancestor_flaws(file, file.parent, owner)
    yield from _of_entry(file, file.lstat(), owner)


def tighten(found: Iterator[Flaw]) -> Flaw | None:
    """Corrects what it can; returns the first problem that it cannot correct. Raises OSError."""
    for flaw in found:
        if flaw.mode is None:
            return flaw
        _chmod(flaw.path, flaw.mode)
        log.warning("%s %s: it is now %04o", flaw.path, flaw.seen, flaw.mode)
    return None


def ancestor_flaws(path: Path, from_here_up: Path, owner: int) -> Iterator[Flaw]:
    """A user who may rename entries of a directory can replace them. Raises OSError."""
    trusted = {0, owner, *_unmapped_root()}
    parent = from_here_up.resolve()
    for ancestor in (*reversed(parent.parents), parent):
        found = ancestor.stat()
        is_sticky = bool(found.st_mode & stat.S_ISVTX)
        if found.st_mode & stat.S_IWOTH and not is_sticky:
            advice = f"Who can write there can replace {path}: chmod o-w {ancestor}, or use another directory."
            yield Flaw(ancestor, "can be written by everybody", advice)
        if found.st_uid not in trusted:
            advice = f"Its owner can replace {path}: use a directory in one of root's or of {_name(owner)}'s own."
            yield Flaw(ancestor, f"belongs to {_name(found.st_uid)}", advice)


def _of_content(directory: Path, owner: int) -> Iterator[Flaw]:
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            path = Path(entry.path)
            with suppress(FileNotFoundError):  # a service that runs removes things
                found = path.lstat()
                yield from _of_entry(path, found, owner)
                if stat.S_ISDIR(found.st_mode) and found.st_uid == owner:
                    yield from _of_content(path, owner)


def _of_entry(path: Path, found: os.stat_result, owner: int) -> Iterator[Flaw]:
    kind = stat.S_IFMT(found.st_mode)
    if kind in (stat.S_IFCHR, stat.S_IFBLK) or (path.name == "lost+found" and found.st_uid == 0):
        return  # only root can have made it
    if kind == stat.S_IFLNK:
        if not _is_note(path, found, owner):
            yield _link(path)
    elif found.st_uid != owner:
        yield Flaw(
            path,
            f"belongs to {_name(found.st_uid)}, not to {_name(owner)}",
            f"Run the service as its owner, or, if you know what it is: chown {_name(owner)} {path}",
        )
    elif kind == stat.S_IFREG and found.st_nlink > 1:
        yield Flaw(path, "has another name elsewhere (a hard link)", "Put a copy in its place, or remove it.")
    elif found.st_mode & _OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        yield Flaw(path, f"is open to others ({mode:04o})", f"chmod go= {path}", mode & ~_OTHERS)


def _is_note(path: Path, found: os.stat_result, owner: int) -> bool:
    """A link of our own that leads nowhere and is only read: the name of an export, written in one step."""
    return path.name == _NOTE and found.st_uid == owner and "/" not in str(path.readlink()) and not path.exists()


def _link(path: Path) -> Flaw:
    return Flaw(path, "is a symbolic link", "Put there what it leads to, or name that itself.")


def _chmod(path: Path, mode: int) -> None:
    """Of what was looked at, though it be replaced meanwhile by a link to something else."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_ISLNK(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} was replaced by a link")
        Path(f"/proc/self/fd/{descriptor}").chmod(mode)
    finally:
        os.close(descriptor)


def _unmapped_root() -> set[int]:
    """In a user namespace the owner of the root directory may have no number here: it is no user of this namespace."""
    owner = Path("/").stat().st_uid
    with suppress(OSError, ValueError):
        if owner and owner == int(_OVERFLOW_UID.read_text()):
            return {owner}
    return set()


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
