"""The directories whose images can be exported: names to paths, and back."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cloudmanager.core.errors import DiskNotFound, InvalidDiskId
from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.providers.local.opened import is_below

MAX_DEPTH = 16
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a name leads."""

    path: Path
    others: tuple[Path, ...] = ()
    """The same name in further directories, which only their absolute paths reach."""
    before: tuple[Path, ...] = ()
    """Where the name would lead if there were a file: none is there."""


@dataclass(frozen=True)
class Entry:
    """A file as the listing finds it, with a position that orders all files."""

    native: str
    path: Path
    position: tuple[int, tuple[str, ...]]


class ImageDirectories:
    def __init__(self, directories: Sequence[Path]) -> None:
        self.paths = tuple(directories)

    def place(self, native: str) -> Place:
        """Raises InvalidDiskId (without looking at any file), DiskNotFound."""
        name = PurePosixPath(native)
        if ".." in name.parts or not name.name:
            raise InvalidDiskId(f"{native!a} is not the name of an image: write its path below an image directory.")
        if name.is_absolute():
            return Place(self._absolute(Path(name)))
        places = [directory / name for directory in self.paths]
        found = [place for place in places if os.path.lexists(place)]
        if not found:
            raise DiskNotFound(f"There is no image {native!a} below {self._shown()}. List the disks to see them all.")
        return Place(found[0], tuple(found[1:]), tuple(places[: places.index(found[0])]))

    def have(self, path: Path) -> bool:
        """Whether an absolute path is below one of them, as they are configured or as they really are."""
        return any(path.is_relative_to(directory) for directory in self.paths) or is_below(path, self.paths)

    def _absolute(self, path: Path) -> Path:
        if not self.have(path):
            raise InvalidDiskId(f"{str(path)!a} is not below an image directory ({self._shown()}).")
        return path

    def _shown(self) -> str:
        return " or ".join(map(str, self.paths)) or "any image directory: none is configured"

    def walk(self, after: tuple[int, tuple[str, ...]] = (0, ())) -> Iterator[Entry]:
        """Regular files in a fixed order, from behind a position on.

        Directory by directory as configured, each in the order of its names' parts. Hidden files and directories are
        left out, links to directories are not followed, and nothing deeper than MAX_DEPTH is visited.
        """
        first, parts = after
        for index in range(first, len(self.paths)):
            for below in _files(self.paths[index], parts if index == first else (), ()):
                yield self._entry(index, below)

    def _entry(self, index: int, parts: tuple[str, ...]) -> Entry:
        path = self.paths[index].joinpath(*parts)
        others = (directory for number, directory in enumerate(self.paths) if number != index)
        is_ambiguous = any(os.path.lexists(other.joinpath(*parts)) for other in others)
        native = str(path) if is_ambiguous else "/".join(parts)
        return Entry(native, path, (index, parts))


def _files(directory: Path, after: tuple[str, ...], below: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for entry in _entries(directory):
        if entry.name.startswith(".") or (after and entry.name < after[0]):
            continue
        rest = after[1:] if after and entry.name == after[0] else None
        if _is_directory(entry) and len(below) < MAX_DEPTH:
            yield from _files(directory / entry.name, rest or (), (*below, entry.name))
        elif rest is None and _is_file(entry):
            yield (*below, entry.name)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise_exhausted(error)
        log.warning("image directory %s is left out of the list: %s", directory, error.strerror)
        return []


def _is_directory(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False  # a link that leads in circles
