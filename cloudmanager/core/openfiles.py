"""How many files the service may have open, and for how many exports that is enough."""

import resource
from dataclasses import dataclass
from pathlib import Path

PER_EXPORT = 4
"""Its listener, its server's pidfd and stderr, and the exclusive open of a block device that it writes to."""
FOR_THE_REST = 128
"""The store's connections, starts under way, looks at disks, and the clients of the HTTP interface."""


@dataclass(frozen=True)
class Capacity:
    """How many exports a service can serve at a time."""

    ports: int
    files: int
    """That it may have open."""

    @property
    def exports(self) -> int:
        return min(self.ports, self.within_files)

    @property
    def within_files(self) -> int:
        """At least one."""
        return max(1, (self.files - FOR_THE_REST) // PER_EXPORT)

    @property
    def is_short_of_files(self) -> bool:
        return self.within_files < self.ports

    def __str__(self) -> str:
        if self.is_short_of_files:
            return f"{self.files} open files are enough for {self.exports} of the {self.ports} exports that have ports"
        return f"{self.files} open files are enough for the {self.ports} exports that have ports"


def raise_limit() -> None:
    """To what the administrator permits: the soft limit is often 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """This process's."""
    return counted(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def counted(limit: int) -> int:
    """A limit as a number of files, also where it is none."""
    return _MANY if limit == resource.RLIM_INFINITY else limit


def limit_of(pid: int) -> int | None:
    """Another process's, as /proc/PID/limits has it. None where that cannot be seen."""
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        return None
    soft = next((line.split()[3] for line in lines if line.startswith("Max open files")), "")
    return int(soft) if soft.isdecimal() else _MANY


def files_for(exports: int) -> int:
    """The limit that is enough for so many."""
    return exports * PER_EXPORT + FOR_THE_REST


def how_to_serve(exports: int) -> str:
    """What to do so that so many can be served."""
    wanted = files_for(exports)
    return f"Raise the limit: LimitNOFILE={wanted} in the service's unit, `ulimit -n {wanted}` in a shell."


_MANY = 2**30
"""More than any kernel lets one process open (fs.nr_open)."""
