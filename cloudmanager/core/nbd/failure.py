"""What a server has written to its standard error, and what it means."""

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


def last_output(output: str) -> str:
    """The end of the output, as far as there was room for it, for the log."""
    return without_graphs(output).strip()[-_LONGEST_SHOWN:]


def clean(output: str, aliases: Mapping[str, str]) -> str:
    """The output for a person: without block graphs, and with the paths that the person knows.

    `aliases` maps the names that the server was given to those paths.
    """
    graphs = without_graphs(output).replace("Failed to blk_new_open the image: ", "")
    for alias in sorted(aliases, key=len, reverse=True):
        graphs = graphs.replace(alias, aliases[alias])
    lines = [_PROGRAM.sub("", line).strip() for line in graphs.splitlines()]
    return "; ".join(filter(None, lines))[:_LONGEST_SHOWN]


def limit_reached(output: str, memory_limit_bytes: int) -> str:
    """Which of its limits a server has reached, as a sentence; empty if none."""
    if any(text in output for text in _NO_MEMORY):
        return f"It reached its limit of {memory_limit_bytes / 2**20:.0f} MiB of memory ([nbd] memory_limit_bytes)."
    if _NO_FILES in output:
        return "It reached its limit of open files."
    return ""


def explain_exit(
    stderr: str,
    status: int | None,
    path: str,
    aliases: Mapping[str, str],
    memory_limit_bytes: int,
    program: str = "qemu-nbd",
) -> CloudManagerError:
    """Why a server ended before it was ready. `status` is its exit status, None where that is not known."""
    message = clean(stderr, aliases)
    if message.startswith("bwrap: "):
        return ServerFailed(
            f"The sandbox cannot be set up: {message}. Run the service as root or let its user make user namespaces, "
            'or set [nbd] sandbox = "none".'
        )
    if _LOCKED in message:
        return DiskInUse(f"{path} is being written by another program: {message}.")
    if _TOO_SMALL in message:
        return SizeMismatch(
            f"QEMU reads {path} as smaller than it was found to be: {message}. Convert it with `qemu-img convert -O "
            "qcow2`, or ask again if it was changed."
        )
    if not message:
        return ServerFailed(
            f"{program} ended while opening {path} (status {status}) without any message.", retriable=status in _KILLED
        )
    if limit := limit_reached(message, memory_limit_bytes):
        return ServerFailed(f"{program} could not open {path}: {message}. {limit}")
    return ServerFailed(
        f"{program} could not open {path}: {message}",
        retriable=status in _KILLED or any(text in message for text in _PASSING),
    )
