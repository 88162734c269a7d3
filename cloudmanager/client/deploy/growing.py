"""Lets the last partition of a target, and its file system, fill it."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cloudmanager.client import sector_size
from cloudmanager.client.access_methods import file as disk_file
from cloudmanager.client.access_methods.command import SYSTEM_PATH, find
from cloudmanager.client.access_methods.errors import AccessFailed
from cloudmanager.client.address import NbdAddress
from cloudmanager.client.deploy.errors import GrowFailed, MissingTool
from cloudmanager.client.deploy.options import Growth
from cloudmanager.client.deploy.sources import TargetLike

_ATTEMPTS = 5
_MAY_FAIL = (0, 1)
"""e2fsck: nothing found, or mended."""
_NEEDED = {"sfdisk": "fdisk", "losetup": "mount", "blkid": "util-linux"}
_EXTENDED = ("5", "f", "85")
_PROTECTIVE = "ee"
_PRIVATELY = ("unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-ec")
"""A mount that nobody else sees, and that ends with its process."""
_MOUNTED = 'mount -t "$1" -o nosuid,nodev,noexec"$4" "$2" "$3"; shift 4; "$@"'


@dataclass(frozen=True)
class _Partition:
    number: int
    start_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class _Table:
    label: str
    partitions: tuple[_Partition, ...]
    has_extended: bool

    @property
    def last(self) -> _Partition:
        return max(self.partitions, key=lambda partition: partition.start_bytes)


def check_tools() -> None:
    """Raises MissingTool, GrowFailed, before anything is written."""
    if os.geteuid() != 0:
        raise GrowFailed("Only root can grow a file system: run it as root, or without --grow.")
    for program, package in _NEEDED.items():
        _find(program, package)


def grow(target: TargetLike) -> Growth:
    """Raises GrowFailed; what was deployed is whole, whether it was grown or not."""
    if not isinstance(target, NbdAddress):
        return _grow(Path(target), None)
    try:
        with disk_file(replace(target, is_writable=True)) as file:
            return _grow(file.path, target.logical_sector_bytes)
    except AccessFailed as error:
        raise GrowFailed(f"The target cannot be reached as a file: {error.detail}") from error


def _grow(disk: Path, logical_sector_bytes: int | None) -> Growth:
    """`logical_sector_bytes` is what the disk's server says."""
    with _as_disk(disk, sector_size.of_path(disk, logical_sector_bytes)) as whole:
        growth = _grow_disk(whole)
    _reread(disk)
    return growth


def _grow_disk(disk: Path) -> Growth:
    table = _table(disk)
    if table is None:
        size = _size(disk)
        return Growth(None, size, size, _grow_file_system(disk, 0, size))
    before = table.last
    _grow_partition(disk, table)
    grown = _table(disk)
    after = grown.last if grown else before
    file_system = _grow_file_system(disk, after.start_bytes, after.size_bytes)
    return Growth(after.number, before.size_bytes, after.size_bytes, file_system)


def _grow_partition(disk: Path, table: _Table) -> None:
    if table.label == "gpt":
        _run("sfdisk", "--no-tell-kernel", "--relocate", "gpt-bak-std", str(disk))
    elif table.has_extended and table.last.number > 4:
        raise GrowFailed("The last partition is a logical one, inside an extended partition: it is not grown.")
    _run("sfdisk", "--no-tell-kernel", "--no-reread", "-N", str(table.last.number), str(disk), given=", +\n")


def _table(disk: Path) -> _Table | None:
    answer = _answer(("sfdisk", "--json", str(disk)))
    if answer.returncode:
        return None
    table = json.loads(answer.stdout)["partitiontable"]
    sector = int(table["sectorsize"])
    entries = table.get("partitions", [])
    if table["label"] == "dos" and any(entry["type"] == _PROTECTIVE for entry in entries):
        raise GrowFailed("The image is deployed, but it was not grown: its GPT cannot be read.")
    if not entries:
        raise GrowFailed("The image has a partition table without partitions.")
    return _Table(
        table["label"],
        tuple(
            _Partition(_number(disk, entry["node"]), entry["start"] * sector, entry["size"] * sector)
            for entry in entries
            if not (table["label"] == "dos" and entry["type"] in _EXTENDED)
        ),
        any(table["label"] == "dos" and entry["type"] in _EXTENDED for entry in entries),
    )


def _number(disk: Path, node: str) -> int:
    """sfdisk names partitions after the disk: /dev/sda3, /dev/loop7p3, image3."""
    return int(node.removeprefix(str(disk)).removeprefix("p"))


def _grow_file_system(disk: Path, start: int, size: int) -> str | None:
    with _as_device(disk, start, size) as device:
        kind = _run("blkid", "-p", "-o", "value", "-s", "TYPE", device, allowed=(0, 2)).strip()
        if kind in ("ext2", "ext3", "ext4"):
            _find("resize2fs", "e2fsprogs")
            _run("e2fsck", "-f", "-p", device, allowed=_MAY_FAIL)
            _run("resize2fs", device)
        elif kind == "xfs":
            _find("xfs_growfs", "xfsprogs")
            _run_mounted(kind, device, ",nouuid", "xfs_growfs")
        elif kind == "btrfs":
            _find("btrfs", "btrfs-progs")
            _run_mounted(kind, device, "", "btrfs", "filesystem", "resize", "max")
        else:
            return None
        return kind


def _run_mounted(kind: str, device: str, options: str, *command: str) -> None:
    """XFS and btrfs grow while they are mounted only."""
    point = Path("/run") if Path("/run").is_dir() else Path("/mnt")
    _run(*_PRIVATELY, _MOUNTED, "sh", kind, device, str(point), options, *command, str(point), name=command[0])


@contextmanager
def _as_disk(disk: Path, sector_bytes: int) -> Iterator[Path]:
    """What sfdisk takes for a disk with those sectors: it believes a block device, and counts in 512 in a file."""
    if _sectors_of(disk) == sector_bytes:
        yield disk
        return
    with _looped(disk, "--sector-size", str(sector_bytes)) as device:
        yield Path(device)


def _sectors_of(disk: Path) -> int:
    with disk.open("rb") as file:
        return sector_size.of_device(file.fileno()) or sector_size.SMALL


def _as_device(disk: Path, start: int, size: int) -> AbstractContextManager[str]:
    """Over a range: there need be no device node for the partition."""
    return _looped(disk, "--offset", str(start), "--sizelimit", str(size))


@contextmanager
def _looped(disk: Path, *options: str) -> Iterator[str]:
    """A loop device."""
    device = _retried("losetup", "--find", "--show", *options, str(disk)).strip()
    try:
        yield device
        _sync(Path(device))  # reports what the kernel could not write back; close does not
    finally:
        _run("losetup", "--detach", device)
    _sync(disk)


def _retried(*command: str) -> str:
    """Another process may take the loop device that was found free."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return _run(*command)
        except GrowFailed:
            continue
    return _run(*command)


def _run(*command: str, given: str = "", allowed: tuple[int, ...] = (0,), name: str = "") -> str:
    answer = _answer(command, given)
    if answer.returncode not in allowed:
        message = (answer.stderr or answer.stdout).strip()
        raise GrowFailed(f"The image is deployed, but it was not grown: {name or command[0]}: {message}")
    return answer.stdout


def _answer(command: tuple[str, ...], given: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + SYSTEM_PATH, "LC_ALL": "C"}
    return subprocess.run(command, input=given, env=environment, capture_output=True, text=True, check=False)


def _sync(disk: Path) -> None:
    descriptor = os.open(disk, os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise GrowFailed(f"The image is deployed, but what grows it could not be written: {error.strerror}.") from error
    finally:
        os.close(descriptor)


def _reread(disk: Path) -> None:
    if disk.is_block_device():
        _run("partx", "--update", str(disk), allowed=(0, 1))


def _size(disk: Path) -> int:
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def _find(program: str, package: str) -> None:
    if find(program) is None:
        raise MissingTool(f"{program} is not installed: the package {package}. Or deploy without --grow.")
