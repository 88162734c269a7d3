"""What a server said on its standard error, and what it means."""

import re
from collections.abc import Mapping

from cloudmanager.confined.qemu_nbd import without_graphs
from cloudmanager.core.errors import CloudManagerError, DiskInUse, ServerFailed, SizeMismatch

_LONGEST_SHOWN = 600
_PROGRAM = re.compile(r"^(qemu-nbd|nbdkit): ")

_LOCKED = "Is another process using the image"
_TOO_SMALL = "has to be smaller or equal to the"
_PASSING = ("Resource temporarily unavailable",)
_NO_MEMORY = (
    "Cannot allocate memory",
    "Could not allocate",
    "failed to allocate",
    "Out of memory",
    "Not enough memory",
)
_NO_FILES = "Too many open files"
_KILLED = {-9, 128 + 9}
"""By the kernel, most likely, for want of memory: as seen directly, and as bubblewrap reports it."""


def last_said(said: str) -> str:
    """What was said before the end, or before there was no more room, for the log."""
    return without_graphs(said).strip()[-_LONGEST_SHOWN:]


def clean(said: str, aliases: Mapping[str, str]) -> str:
    """It for a person: without block graphs, and with the paths that the person knows.

    `aliases` maps the names that the server was given to those paths.
    """
    graphs = without_graphs(said).replace("Failed to blk_new_open the image: ", "")
    for alias in sorted(aliases, key=len, reverse=True):
        graphs = graphs.replace(alias, aliases[alias])
    lines = [_PROGRAM.sub("", line).strip() for line in graphs.splitlines()]
    return "; ".join(filter(None, lines))[:_LONGEST_SHOWN]


def limit_reached(said: str, memory_limit_bytes: int) -> str:
    """Which of its limits a server has reached, as a sentence; empty if none."""
    if any(words in said for words in _NO_MEMORY):
        return f"It reached its limit of {memory_limit_bytes / 2**20:.0f} MiB of memory ([nbd] memory_limit_bytes)."
    if _NO_FILES in said:
        return "It reached its limit of open files."
    return ""


def failure(
    stderr: str,
    status: int | None,
    path: str,
    aliases: Mapping[str, str],
    memory_limit_bytes: int,
    program: str = "qemu-nbd",
) -> CloudManagerError:
    """Why a server ended before it was ready. `status` is its exit status, None where that is not known."""
    said = clean(stderr, aliases)
    if said.startswith("bwrap: "):
        return ServerFailed(
            f"The sandbox cannot be set up: {said}. Run the service as root or let its user make user namespaces, "
            'or set [nbd] sandbox = "none".'
        )
    if _LOCKED in said:
        return DiskInUse(f"{path} is being written by another program: {said}.")
    if _TOO_SMALL in said:
        return SizeMismatch(
            f"QEMU reads {path} as smaller than it was found to be: {said}. Convert it with `qemu-img convert -O "
            "qcow2`, or ask again if it was changed."
        )
    if not said:
        return ServerFailed(
            f"{program} ended while opening {path} (status {status}) and said nothing.", retriable=status in _KILLED
        )
    if limit := limit_reached(said, memory_limit_bytes):
        return ServerFailed(f"{program} could not open {path}: {said}. {limit}")
    return ServerFailed(
        f"{program} could not open {path}: {said}",
        retriable=status in _KILLED or any(word in said for word in _PASSING),
    )
