"""The mount table of a process, as /proc/PID/mountinfo has it (proc_pid_mountinfo(5))."""

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")
_CACHED_TABLES = 4


@dataclass(frozen=True)
class Mount:
    """One mounted file system."""

    device: int
    """As st_dev has it. Btrfs and other file systems without exactly one device have a number of their own."""
    root: str
    """The part of the file system that is mounted: `/` for all of it."""
    target: str
    """The mount point."""
    type: str
    source: str
    options: tuple[str, ...]
    """Of the file system, not of this mount of it."""

    @property
    def is_writable(self) -> bool:
        """Whether the file system may be written, through this mount or another one."""
        return "rw" in self.options


def mounts(process: str = "self") -> tuple[Mount, ...]:
    """In the order in which they were mounted. `process`: a pid, `self` or `thread-self`. Raises OSError."""
    return parse(os.fsdecode(Path("/proc", process, "mountinfo").read_bytes()))


def mounted_at(target: str | os.PathLike[str]) -> Mount | None:
    """The uppermost mount at a path that has no symbolic links. Raises OSError."""
    path = os.fspath(target)
    return next((mount for mount in reversed(mounts()) if mount.target == path), None)


def mount_points_below(directory: Path) -> list[str]:
    """The mount points at a directory without symbolic links, and in it. Raises OSError."""
    return [mount.target for mount in mounts() if Path(mount.target).is_relative_to(directory)]


@lru_cache(maxsize=_CACHED_TABLES)
def parse(mountinfo: str) -> tuple[Mount, ...]:
    """The table that /proc gave as text. Raises ValueError if it is something else."""
    return tuple(_parse_line(line) for line in mountinfo.split("\n") if line)


def unescape(text: str) -> str:
    r"""A field of a table of /proc: the kernel writes a space as \040, and likewise tabs, newlines and backslashes."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def _parse_line(line: str) -> Mount:
    mount, _, filesystem = line.partition(" - ")
    _id, _parent, number, root, target, *_rest = mount.split(" ")
    kind, source, options = filesystem.split(" ", 2)
    major, minor = number.split(":")
    return Mount(
        os.makedev(int(major), int(minor)),
        unescape(root),
        unescape(target),
        kind,
        unescape(source),
        tuple(options.split(",")),
    )
