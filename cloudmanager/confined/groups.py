"""Control groups, of either version: each program in one of its own, where this process may make some.

Memory is not among what they limit. A group is charged with the page cache of what it reads too, so a limit would throw
out what several readers of one disk share; `Limits.memory_bytes` bounds what a program itself allocates.
"""

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cloudmanager.linux.mounts import Mount, mounts

PREFIX = "confined-"
_PROCESSES = "cgroup.procs"
_CONTROLLERS = ("pids", "cpu")
_SHARES_PER_WEIGHT = 1024 / 100
"""A group has by default 1,024 shares in version 1, and the weight 100 in version 2."""


@dataclass(frozen=True)
class ControlGroup:
    """The directories of one group: one for each controller in version 1."""

    directories: Sequence[Path]

    def add(self, pid: int) -> None:
        """With all its threads. Raises OSError."""
        for directory in self.directories:
            (directory / _PROCESSES).write_text(str(pid))

    def remove(self) -> None:
        """Once it is empty; else it is left to the next `ControlGroups`."""
        for directory in self.directories:
            with suppress(OSError):
                directory.rmdir()


class ControlGroups:
    """Where groups can be made. Thread-safe."""

    def __init__(self, parents: Mapping[str, Path], version: int) -> None:
        """`parents`: by controller."""
        self.version = version
        self._parents = parents
        self.sweep()

    @classmethod
    def find(cls) -> Self | None:
        """Below the group of this process. None where it may make none, as in most containers."""
        for parents, version in ((_first_version(), 1), (_second_version(), 2)):
            if parents and _can_make(parents.values()):
                return cls(parents, version)
        return None

    @property
    def controllers(self) -> tuple[str, ...]:
        return tuple(sorted(self._parents))

    def make(self, pid: int, *, processes: int, cpu_weight: int) -> ControlGroup:
        """For a process, which is not in it yet. `processes` counts threads. Raises OSError."""
        cpu = ("cpu.weight", cpu_weight)
        if self.version == 1:
            cpu = ("cpu.shares", max(2, round(cpu_weight * _SHARES_PER_WEIGHT)))
        settings = {"pids": ("pids.max", processes), "cpu": cpu}
        made: list[Path] = []
        try:
            for controller, parent in self._parents.items():
                directory = parent / f"{PREFIX}{pid}"
                directory.mkdir(exist_ok=True)
                made.append(directory)
                file, value = settings[controller]
                (directory / file).write_text(str(value))
        except OSError:
            ControlGroup(made).remove()
            raise
        return ControlGroup(tuple(dict.fromkeys(made)))

    def sweep(self) -> None:
        """Groups whose process ended while no service ran. Another service may be about to use an empty one."""
        for parent in set(self._parents.values()):
            for left in parent.glob(f"{PREFIX}*"):
                if not Path("/proc", left.name.rpartition("-")[2]).exists():
                    with suppress(OSError):
                        left.rmdir()


def _first_version() -> dict[str, Path]:
    """Each controller has a hierarchy of its own, or shares one with others."""
    own = {
        name: path for _, names, path in _own_groups() for name in names.split(",") if name in _CONTROLLERS and names
    }
    found = {}
    for mount in _group_mounts("cgroup"):
        for name in set(own) & set(mount.options):
            found[name] = _below(mount, own[name])
    return found


def _second_version() -> dict[str, Path]:
    """One hierarchy. A group with processes can hand no controller on to groups below it, unless it is a root."""
    own = next((path for number, _, path in _own_groups() if number == "0"), None)
    for mount in _group_mounts("cgroup2"):
        if own is not None:
            group = _below(mount, own)
            with suppress(OSError):
                offered = set((group / "cgroup.controllers").read_text().split())
                wanted = [name for name in _CONTROLLERS if name in offered]
                (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
                return dict.fromkeys(wanted, group)
    return {}


def _own_groups() -> list[tuple[str, str, str]]:
    """Number, controllers and path of each hierarchy (proc_pid_cgroup(5))."""
    with suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        return [(number, names, path) for number, names, path in (line.split(":", 2) for line in lines)]
    return []


def _group_mounts(kind: str) -> list[Mount]:
    try:
        return [mount for mount in mounts() if mount.type == kind]
    except OSError:
        return []


def _below(mount: Mount, own: str) -> Path:
    """In a container only a part of the hierarchy is mounted."""
    inside = own[len(mount.root) :] if mount.root != "/" and own.startswith(mount.root) else own
    return Path(mount.target, inside.strip("/"))


def _can_make(parents: Iterable[Path]) -> bool:
    for parent in set(parents):
        probe = parent / f"{PREFIX}{secrets.token_hex(4)}-{os.getpid()}"
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError:
            return False
    return True
