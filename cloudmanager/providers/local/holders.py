"""Who uses files and block devices on this machine, from the kernel's tables."""

import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.core.model import FileIdentity
from cloudmanager.linux import mounts
from cloudmanager.linux.block import LOOP_GET_STATUS64
from cloudmanager.linux.mounts import Mount
from cloudmanager.providers.local.roots import Roots, read_text

_LOOP_INFO64 = struct.Struct("=QQQ208x")  # device, inode, rdevice; see loop(4)


@dataclass(frozen=True)
class Holder:
    """A user of some bytes."""

    name: str
    writes: bool
    """It may change them at any time."""


class Holders:
    """The holders of everything at one moment, by file identity (a block device's is its number and inode 0)."""

    def __init__(self, roots: Roots) -> None:
        self._by_identity: dict[FileIdentity, list[Holder]] = {}
        for identity, holder in (*_loops(roots), *_mounts(roots), *_swaps(roots)):
            known = self._by_identity.setdefault(identity, [])
            if holder not in known:
                known.append(holder)
        self._written = {identity for identity, known in self._by_identity.items() if any(h.writes for h in known)}

    def of(self, identity: FileIdentity) -> tuple[Holder, ...]:
        return tuple(self._by_identity.get(identity, ()))

    def may_write(self, identity: FileIdentity) -> bool:
        """Whether one of them may change it at any time."""
        return identity in self._written


def device_identity(number: int) -> FileIdentity:
    return FileIdentity(number, 0)


def device_number(text: str) -> int:
    """`7:3` as st_rdev has it. Raises ValueError."""
    major, minor = text.split(":")
    return os.makedev(int(major), int(minor))


def identity_of(path: Path | str) -> FileIdentity | None:
    """Of what a path leads to, if that can have holders here."""
    try:
        status = os.stat(path)  # noqa: PTH116 - also for names that the kernel reports as text
    except (OSError, ValueError):
        return None
    if stat.S_ISBLK(status.st_mode):
        return device_identity(status.st_rdev)
    return FileIdentity(status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def loop_backing(roots: Roots, name: str) -> FileIdentity | None:
    """What a loop device reads from: the driver knows it even when the path that sysfs shows is stale."""
    directory = f"{roots.sys}/block/{name}"  # no Path per look: a machine may have a hundred
    try:
        descriptor = os.open(f"{roots.dev}/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise_exhausted(error)
    else:
        try:
            if os.fstat(descriptor).st_rdev == device_number(read_text(f"{directory}/dev") or "0:0"):
                return _ask_loop(descriptor)
        finally:
            os.close(descriptor)
    return identity_of(read_text(f"{directory}/loop/backing_file"))


def _ask_loop(descriptor: int) -> FileIdentity | None:
    buffer = bytearray(_LOOP_INFO64.size)
    try:
        fcntl.ioctl(descriptor, LOOP_GET_STATUS64, buffer)
    except OSError:
        return None
    device, inode, rdevice = _LOOP_INFO64.unpack(buffer)
    return device_identity(rdevice) if rdevice else FileIdentity(device, inode)


def _loops(roots: Roots) -> Iterator[tuple[FileIdentity, Holder]]:
    for name in sorted(_bound_loops(roots)):
        identity = loop_backing(roots, name)
        if identity:
            is_read_only = read_text(f"{roots.sys}/block/{name}/ro") == "1"
            yield identity, Holder(f"loop device {name}", not is_read_only)


def _bound_loops(roots: Roots) -> list[str]:
    """Every one of which is in the kernel's list of devices that have any bytes; there may be many that have none."""
    return re.findall(r" (loop\d+)$", read_text(roots.proc / "partitions"), re.MULTILINE)


def _mounts(roots: Roots) -> tuple[tuple[FileIdentity, Holder], ...]:
    return _mount_holders(read_text(roots.proc / "self/mountinfo"))


@lru_cache(maxsize=4)
def _mount_holders(mountinfo: str) -> tuple[tuple[FileIdentity, Holder], ...]:
    """A source keeps its identity while it is mounted."""
    return tuple(holding for mount in mounts.parse(mountinfo) for holding in _mount_holding(mount))


def _mount_holding(mount: Mount) -> Iterator[tuple[FileIdentity, Holder]]:
    holder = Holder(f"mounted at {mount.target}", mount.is_writable)
    yield device_identity(mount.device), holder
    source = identity_of(mount.source) if mount.source.startswith("/") else None
    if source:
        yield source, holder


def _swaps(roots: Roots) -> Iterator[tuple[FileIdentity, Holder]]:
    for line in read_text(roots.proc / "swaps").splitlines()[1:]:
        identity = identity_of(mounts.unescape(line.split()[0]))
        if identity:
            yield identity, Holder("swap", writes=True)
