"""The sector size that a disk's content was made for, told from disks that real programs made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudmanager.client import access_methods, sector_size
from tests.loop_devices import loop_device

MiB = 1024 * 1024
SIZE = 24 * MiB
BOTH = frozenset(sector_size.SIZES)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes loop devices")


def run(*command: str | Path, given: str = "") -> None:
    subprocess.run(list(map(str, command)), input=given, text=True, check=True, capture_output=True)


@contextmanager
def device(disk: Path, sector_bytes: int) -> Iterator[str]:
    with loop_device(disk, "--sector-size", str(sector_bytes)) as loop:
        yield str(loop)


def blank(path: Path, size: int = SIZE) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def partitioned(path: Path, sector_bytes: int, label: str, make: tuple[str, ...] = ("mke2fs", "-q")) -> Path:
    """One partition from 1 MiB on, with a file system."""
    blank(path)
    part = blank(path.with_suffix(".part"), SIZE - 2 * MiB)
    run(*make, part)
    with device(path, sector_bytes) as disk:
        run("sfdisk", "-q", "--no-tell-kernel", disk, given=f"label: {label}\nstart={MiB // sector_bytes}, type=L\n")
    with path.open("r+b") as file:
        file.seek(MiB)
        file.write(part.read_bytes()[: SIZE - 2 * MiB])
    return path


def sizes(path: Path) -> frozenset[int]:
    content = path.read_bytes()
    return sector_size.laid_out_for(lambda offset, length: content[offset : offset + length], len(content))


@needs_root
@pytest.mark.parametrize("sector_bytes", sector_size.SIZES)
@pytest.mark.parametrize("label", ["gpt", "dos"])
@pytest.mark.parametrize("make", [("mke2fs", "-q"), ("mkfs.vfat", "-F", "16"), ("mkswap",)], ids=["ext", "fat", "swap"])
def test_a_partition_table_tells(tmp_path: Path, sector_bytes: int, label: str, make: tuple[str, ...]) -> None:
    disk = partitioned(tmp_path / "disk", sector_bytes, label, make)
    assert sizes(disk) == {sector_bytes}
    layout = access_methods.read_layout(disk)
    assert (layout.scheme, layout.logical_sector_bytes) == (label, sector_bytes)
    (part,) = layout.parts
    assert part.start_bytes == MiB
    assert part.content is not None


@needs_root
@pytest.mark.parametrize("sector_bytes", sector_size.SIZES)
@pytest.mark.parametrize("content_bytes", sector_size.SIZES)
def test_a_device_is_read_as_its_content_is_laid_out(tmp_path: Path, sector_bytes: int, content_bytes: int) -> None:
    """A disk whose content came from one with other sectors, too: an investigator wants to see it."""
    disk = partitioned(tmp_path / "disk", content_bytes, "gpt")
    with device(disk, sector_bytes) as loop:
        layout = access_methods.read_layout(Path(loop))
    assert [(part.name, part.start_bytes) for part in layout.parts] == [("1", MiB)]
    assert layout.parts[0].is_filesystem


@needs_root
def test_what_a_disk_says_counts_where_its_content_does_not_tell(tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk")
    assert sizes(disk) == frozenset()
    assert (sector_size.of_path(disk), sector_size.of_path(disk, 4096)) == (512, 4096)
    with device(disk, 4096) as loop:
        assert sector_size.of_path(Path(loop)) == 4096
        run("sfdisk", "-q", "--no-tell-kernel", loop, given="label: dos\nstart=256, type=L\n")
    assert sizes(disk) == frozenset()
    assert access_methods.read_layout(disk, 4096).parts[0].start_bytes == MiB


@needs_root
@pytest.mark.parametrize("new", sector_size.SIZES)
def test_an_old_header_that_is_left_between_the_new_sectors_misleads_nobody(tmp_path: Path, new: int) -> None:
    old = partitioned(tmp_path / "old", 512 if new == 4096 else 4096, "gpt").read_bytes()
    disk = bytearray(partitioned(tmp_path / "disk", new, "gpt").read_bytes())
    at = 512 if new == 4096 else 4096
    disk[at : at + 512] = old[at : at + 512]
    if new == 512:  # its table is where the old header is: it has to be empty there
        assert bytes(disk[1024:1152]).strip(b"\0")
    (tmp_path / "disk").write_bytes(disk)
    assert sizes(tmp_path / "disk") == ({new} if new == 4096 else {4096, 512})


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (("mkfs.vfat", "-F", "16", "-S", "512"), {512}),
        (("mkfs.vfat", "-S", "4096"), BOTH),
        (("mke2fs", "-q", "-b", "1024"), {512}),
        (("mke2fs", "-q", "-b", "2048"), {512}),
        (("mke2fs", "-q", "-b", "4096"), BOTH),
        (("mkfs.btrfs", "-q"), frozenset()),
    ],
    ids=["fat of 512", "fat of 4096", "ext of 1024", "ext of 2048", "ext of 4096", "btrfs"],
)
def test_a_file_system_that_is_the_whole_disk(tmp_path: Path, make: tuple[str, ...], expected: frozenset[int]) -> None:
    """Sectors that are larger than the disk's are no obstacle to a mount; smaller ones are."""
    disk = blank(tmp_path / "disk", 128 * MiB)
    run(*make, disk)
    assert sizes(disk) == expected


@needs_root
@pytest.mark.parametrize("block_bytes", [1024, 2048, 4096])
def test_the_kernel_mounts_what_is_said_to_fit(tmp_path: Path, block_bytes: int) -> None:
    disk = blank(tmp_path / "disk", 64 * MiB)
    run("mke2fs", "-q", "-b", str(block_bytes), disk)
    with device(disk, 4096) as loop:
        command = ["unshare", "--mount", "mount", "-o", "ro", loop, "/mnt"]
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert (4096 in sizes(disk)) is mounted


@pytest.mark.parametrize(("shift", "expected"), [(9, {512}), (12, BOTH)])
def test_an_exfat_says_its_sectors(tmp_path: Path, shift: int, expected: frozenset[int]) -> None:
    disk = blank(tmp_path / "disk")
    boot = (b"\xeb\x76\x90EXFAT   ".ljust(108, b"\0") + bytes([shift])).ljust(510, b"\xf4") + b"\x55\xaa"
    with disk.open("r+b") as file:
        file.write(boot)
    assert sizes(disk) == expected


def test_partitions_that_would_reach_beyond_large_sectors_are_in_small_ones(tmp_path: Path) -> None:
    """Of which nothing else is known: they are encrypted, or empty."""
    disk = blank(tmp_path / "disk")
    run("sfdisk", "-q", disk, given="label: dos\nstart=2048, size=8192, type=83\nstart=10240, type=83\n")
    assert sizes(disk) == {512}
    content = disk.read_bytes()
    assert sector_size.laid_out_for(lambda offset, length: content[offset : offset + length]) == frozenset()


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4096, 4607])
def test_what_is_too_small_for_a_table_tells_nothing(tmp_path: Path, size: int) -> None:
    assert sizes(blank(tmp_path / "disk", size)) == frozenset()


@pytest.mark.parametrize("junk", [b"EFI PART", b"EFI PART" + b"\xff" * 504, b"\0" * 510 + b"\x55\xaa"])
@pytest.mark.parametrize("at", [0, 512, 4096])
def test_a_signature_alone_is_no_table(tmp_path: Path, junk: bytes, at: int) -> None:
    disk = blank(tmp_path / "disk")
    with disk.open("r+b") as file:
        file.seek(at)
        file.write(junk)
    assert sizes(disk) == frozenset()
