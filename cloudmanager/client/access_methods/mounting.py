"""A file system of the disk, read-only and as it was found: no journal is replayed, so no byte changes.

The export's server may allow writes: what is mounted is read-only below the file system too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.client.access_methods.choice import choose
from cloudmanager.client.access_methods.command import find, run
from cloudmanager.client.access_methods.errors import AccessFailed, AccessMethod, NotMountable
from cloudmanager.client.access_methods.fuse_file import file
from cloudmanager.client.access_methods.kernel_device import device
from cloudmanager.client.access_methods.layout import Content, Layout, Part, read_layout
from cloudmanager.client.access_methods.record import Record, recorded
from cloudmanager.client.access_methods.steps import BoundMount, MountPoint
from cloudmanager.client.address import NbdAddress

ALWAYS = ("ro", "nosuid", "nodev", "noexec")
NO_REPLAY = {
    "ext3": ("noload",),
    "ext4": ("noload",),
    "xfs": ("norecovery", "nouuid"),  # nouuid: a copy of a file system that this machine has mounted
    "btrfs": ("rescue=nologreplay",),
    "f2fs": ("norecovery",),
    "reiserfs": ("nolog",),
}
"""By the type of the file system; the others have no journal, or leave it alone when they are read-only."""
_DRIVERS = {"ntfs": ("ntfs3", "ntfs-3g"), "ext3": ("ext4",)}
"""Where the name of the type is not that of what mounts it; the first that is there is taken."""


@dataclass(frozen=True)
class MountedDisk:
    path: Path
    """Where the files are."""
    part: Part
    layout: Layout
    """All that the disk has."""
    method: AccessMethod


@contextmanager
def mount(
    address: NbdAddress, where: Path | str | None = None, *, part: str | None = None, method: AccessMethod | None = None
) -> Iterator[MountedDisk]:
    """Mounts a part of the disk at a directory, by default a private one; unmounted, lazily if need be, at the end.

    `part` is a name in the layout: `1`, `group/name`. It may be left out when the disk has one file system only.
    Needs root. Raises NotMountable with what the disk has, NotPossibleHere, AccessFailed with the message of mount(8).
    """
    chosen = method or choose(address, (AccessMethod.DEVICE, AccessMethod.FILE)).method
    with _disk(address, chosen) as (path, devices), recorded() as record:
        layout = read_layout(path, address.logical_sector_bytes)
        chosen_part = choose_part(layout, part)
        point = _mount(record, path, devices, chosen_part)
        if where is not None:
            point = _bind(record, point, Path(where).resolve())
        yield MountedDisk(point, chosen_part, layout, chosen)


@contextmanager
def _disk(address: NbdAddress, method: AccessMethod) -> Iterator[tuple[Path, dict[int, Path]]]:
    """Its path, and the devices of its partitions by their first byte."""
    match method:
        case AccessMethod.DEVICE:
            with device(address, read_only=True) as disk_device:
                yield disk_device.path, disk_device.partitions
        case AccessMethod.FILE:
            with file(address, read_only=True) as disk_file:
                yield disk_file.path, {}
        case AccessMethod.STUB:
            raise NotMountable("the kernel cannot mount a stub; use the device or the file")


def choose_part(layout: Layout, name: str | None) -> Part:
    """The part of that name, or the only file system. Raises NotMountable for no file system, or several."""
    has = ", ".join(map(str, layout.parts))
    if name is not None:
        part = layout.part(name)
        if part is None:
            raise NotMountable(f"the disk has no part {name!r}; it has {has}")
        return part
    filesystems = [part for part in layout.parts if part.is_filesystem]
    if len(filesystems) != 1:
        raise NotMountable(f"say which part is to be mounted; the disk has {has}")
    return filesystems[0]


def _mount(record: Record, disk: Path, devices: dict[int, Path], part: Part) -> Path:
    """In the record's own directory."""
    start, filesystem = _filesystem(part)
    point = record.directory / "files"
    point.mkdir(mode=0o700)
    record.note(MountPoint(str(point)))
    options = [*ALWAYS, *NO_REPLAY.get(filesystem, ())]
    source = disk if part.name == "disk" and disk.is_block_device() else devices.get(start)
    if source is None or not source.exists():
        source = disk
        options += ["loop", f"offset={start}", f"sizelimit={part.size_bytes}"]  # the kernel frees it at the unmount
    run("mount", "-t", _driver(filesystem), "-o", ",".join(options), source, point)
    return point


def _filesystem(part: Part) -> tuple[int, str]:
    """Its first byte and its type. Raises NotMountable."""
    match part:
        case Part(start_bytes=None):
            raise NotMountable(
                f"the logical volume {part.name} is not in one piece on this disk; with the device of every disk of "
                "its group, LVM can put it together: vgchange --activate y, with activation/read_only_volume_list"
            )
        case Part(start_bytes=int(start), content=Content(type=filesystem, usage="filesystem")):
            return start, filesystem
    raise NotMountable(f"{part} is no file system")


def _driver(filesystem: str) -> str:
    names = _DRIVERS.get(filesystem, (filesystem,))
    known = Path("/proc/filesystems").read_text().split()
    return next((name for name in names if name in known or find(f"mount.{name}")), names[0])


def _bind(record: Record, point: Path, where: Path) -> Path:
    if not where.is_dir():
        raise AccessFailed(f"{where} is not a directory, so nothing can be mounted there")
    record.note(BoundMount(str(where), str(point)))
    run("mount", "--bind", point, where)
    return where
