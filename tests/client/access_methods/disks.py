"""Images with real partitions and file systems, some of them caught in the middle of work."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.loop_devices import loop_device

MiB = 2**20
GREETING = "It was the butler.\n"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
WINDOWS = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
LVM = "E6D6D379-F507-44C2-A23C-238F2A3DF928"
FILE_SYSTEMS = {"1": "ext4", "2": "xfs", "3": "btrfs", "4": "ntfs", "5": "vfat"}
"""By partition of the evidence."""
_SIZES = {"ext4": 16, "xfs": 300, "btrfs": 120, "ntfs": 8, "vfat": 4}
"""MiB; the smallest that their makers accept, or nearly."""
_LVM_QUIETLY = (
    *("--driverloaded", "n", "--config"),
    "global{use_lvmpolld=0} activation{monitoring=0 udev_sync=0} devices{use_devicesfile=0} backup{backup=0 archive=0}",
)


def random_bytes(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def run(*command: str | Path, stdin: str = "") -> str:
    environment = {**os.environ, "LVM_SUPPRESS_FD_WARNINGS": "1", "LC_ALL": "C.UTF-8"}
    environment["PATH"] += ":/usr/sbin:/sbin"
    done = subprocess.run(
        list(map(str, command)), input=stdin, capture_output=True, text=True, check=False, env=environment, timeout=60
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def mounted(image: Path, *options: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cm-mounted-") as name:
        run("mount", "-o", ",".join(["loop", *options]), image, name)
        try:
            yield Path(name)
        finally:
            run("umount", name)


def make_evidence(directory: Path) -> Path:
    """A GPT disk with a partition for each of FILE_SYSTEMS."""
    image = directory / "evidence.raw"
    rows = [f"size={size}MiB, type={WINDOWS if kind == 'ntfs' else LINUX}" for kind, size in _SIZES.items()]
    partition(image, (sum(_SIZES.values()) + 8) * MiB, "\n".join(["label: gpt", *rows]))
    for number, kind in FILE_SYSTEMS.items():
        put(image, starts(image)[int(number) - 1], copied_in_use(directory, kind))
    return image


def partition(image: Path, size: int, script: str) -> None:
    image.touch()
    os.truncate(image, size)
    run("sfdisk", "--quiet", image, stdin=script)


def starts(image: Path) -> list[int]:
    """First byte of each partition, as sfdisk sees it."""
    return [int(line) * 512 for line in run("partx", "-g", "-o", "START", image).split()]


def put(image: Path, start: int, content: Path) -> None:
    run("dd", f"if={content}", f"of={image}", "bs=1M", f"seek={start}", "oflag=seek_bytes", "conv=notrunc,sparse")


def copied_in_use(directory: Path, kind: str) -> Path:
    """A file system with `greeting` and a deleted file, copied while it was mounted and being written to.

    The kernel may have no driver for FAT: that one is empty.
    """
    image = directory / f"{kind}.raw"
    image.touch()
    os.truncate(image, _SIZES[kind] * MiB)
    run(*_MAKERS[kind], image)
    if kind == "vfat":
        return image
    driver = ["-t", "ntfs-3g"] if kind == "ntfs" else []
    with _in_use(image, driver) as files:
        (files / "greeting").write_text(GREETING)
        (files / "late").write_text("early\n" * 1000)
        (files / "deleted").write_text("Nobody will read this.\n" * 100)
    copy = directory / f"{kind}.copy"
    with _in_use(image, driver) as files:
        (files / "deleted").unlink()
        write_through(files / "late")
        run("cp", "--sparse=always", image, copy)
    return copy


_MAKERS: dict[str, tuple[str, ...]] = {
    "ext4": ("mke2fs", "-q", "-t", "ext4", "-L", 'a "b\\ $é'),
    "xfs": ("mkfs.xfs", "-q"),
    "btrfs": ("mkfs.btrfs", "--quiet"),
    "ntfs": ("mkntfs", "--quiet", "--fast", "--force"),
    "vfat": ("mkfs.vfat",),
}


@contextmanager
def _in_use(image: Path, driver: list[str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cm-mounted-") as name:
        run("mount", *driver, "-o", "loop", image, name)
        try:
            yield Path(name)
        finally:
            run("umount", name)


def write_through(path: Path) -> None:
    """In the journal for sure, and in its place perhaps. It takes no room of what was deleted."""
    with path.open("r+") as file:
        file.write("later\n")
        file.flush()
        os.fsync(file.fileno())


def make_group(directory: Path) -> Path:
    """An MBR disk: a swap partition, and one of LVM with `whole` (ext4, in one piece) and `split` (in two)."""
    image = directory / "group.raw"
    partition(image, 72 * MiB, "label: dos\nsize=4MiB, type=82\nsize=64MiB, type=8e")
    start = starts(image)[1]
    ext4 = copied_in_use(directory, "ext4")
    with loop_device(image, f"--offset={start}", f"--sizelimit={64 * MiB}") as device:
        loop = str(device)
        for command in (
            ["pvcreate", loop],
            ["vgcreate", "evidence", loop],
            ["lvcreate", "-an", "-Zn", "-Wn", "--name", "split", "--size", "4M", "evidence"],
            ["lvcreate", "-an", "-Zn", "-Wn", "--name", "whole", "--size", "16M", "evidence"],
            ["lvextend", "--size", "8M", "evidence/split"],
        ):
            run(command[0], *_LVM_QUIETLY, "--devices", loop, *command[1:])
        listed = run("lvs", *_LVM_QUIETLY, "--devices", loop, "--noheadings", "-o", "name,seg_start_pe,seg_pe_ranges")
        where = next(line for line in listed.splitlines() if line.split()[0] == "whole").rpartition(":")[2]
        first_extent = int(where.partition("-")[0])
    put(image, start + MiB + first_extent * 4 * MiB, ext4)
    return image
