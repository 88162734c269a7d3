"""What a server said on its standard error, and what it means."""

import fcntl
import os
from collections.abc import Mapping

from cloudmanager.core.errors import CloudManagerError, DiskInUse, ServerFailed, SizeMismatch
from cloudmanager.transfer.complaints import without_graphs

_LIMIT_BYTES = 64 * 1024
_LONGEST_SHOWN = 600
_F_ADD_SEALS = 1033
_F_SEAL_SHRINK, _F_SEAL_GROW = 0x2, 0x4

_LOCKED = "Is another process using the image"
_TOO_SMALL = "has to be smaller or equal to the"
_PASSING = ("Cannot allocate memory", "Too many open files", "Resource temporarily unavailable")
_KILLED = {-9, 128 + 9}
"""By the kernel, most likely, for want of memory: as seen directly, and as bubblewrap reports it."""


class Words:
    """A file that takes a server's standard error, and is full after 64 KiB.

    It lives in memory and is sealed against growth: each malformed client makes qemu-nbd print a line, for as long as
    it serves, with or without a daemon. A pipe that nobody reads would block it, a file would fill the disk.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("qemu-nbd-stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, _LIMIT_BYTES)
        fcntl.fcntl(self.fd, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW)

    def read(self) -> str:
        """From the beginning."""
        return os.pread(self.fd, _LIMIT_BYTES, 0).rstrip(b"\0").decode(errors="replace")

    def last(self) -> str:
        """What was said before the end, or before the file was full."""
        return without_graphs(self.read()).strip()[-_LONGEST_SHOWN:]

    def close(self) -> None:
        os.close(self.fd)


def clean(words: str, aliases: Mapping[str, str]) -> str:
    """The words for a person: without block graphs, and with the paths that the person knows.

    `aliases` maps the names that the server was given to those paths.
    """
    graphs = without_graphs(words).replace("Failed to blk_new_open the image: ", "")
    for alias in sorted(aliases, key=len, reverse=True):
        graphs = graphs.replace(alias, aliases[alias])
    lines = [line.removeprefix("qemu-nbd: ").strip() for line in graphs.splitlines()]
    return "; ".join(filter(None, lines))[:_LONGEST_SHOWN]


def failure(words: str, status: int | None, path: str, aliases: Mapping[str, str]) -> CloudManagerError:
    """Why a server ended before it was ready. `status` is its exit status, None where that is not known."""
    said = clean(words, aliases)
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
            f"qemu-nbd ended while opening {path} (status {status}) and said nothing.", retriable=status in _KILLED
        )
    return ServerFailed(
        f"qemu-nbd could not open {path}: {said}", retriable=status in _KILLED or any(word in said for word in _PASSING)
    )
