"""The last partition and its file system fill the target."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudmanager.client.deploy import growing
from cloudmanager.client.deploy.errors import GrowFailed
from tests.client.deploy import images
from tests.client.deploy.conftest import Put
from tests.client.deploy.servers import serving
from tests.loop_devices import attached, detach

START = 8 * images.MIB
END = images.MIB
"""Kept free for the backup of the partition table."""
MORE = 96 * images.MIB
"""btrfs grows to no less than 256 MiB (the kernel's fs/btrfs/ioctl.c)."""
SIZES = {"ext4": 32, "xfs": 320, "btrfs": 192, "swap": 8}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root grows file systems")


def _run(*command: str | Path, given: str = "") -> str:
    return subprocess.run(list(map(str, command)), input=given, check=True, capture_output=True, text=True).stdout


def _file_system(path: Path, kind: str) -> Path:
    with path.open("wb") as file:
        file.truncate(SIZES[kind] * images.MIB)
    make = {
        "ext4": ("mke2fs", "-q", "-t", "ext4"),
        "xfs": ("mkfs.xfs", "-q"),
        "btrfs": ("mkfs.btrfs", "-q"),
        "swap": ("mkswap",),
    }
    _run(*make[kind], path)
    return path


def _image(directory: Path, kind: str, label: str = "gpt", before: str = "start=4MiB, size=2MiB") -> Path:
    """A disk with a small partition and one with the file system."""
    part = _file_system(directory / "part", kind)
    image = directory / "image.raw"
    size = part.stat().st_size
    with image.open("wb") as file:
        file.truncate(START + size + END)
    table = f"label: {label}\n{before}\nstart={START // 512}, size={size // 512}\n"
    _run("sfdisk", "-q", image, given=table)
    _copy(part, image, START)
    return image


def _copy(source: Path, target: Path, offset: int) -> None:
    _run(
        "dd",
        f"if={source}",
        f"of={target}",
        "bs=1M",
        f"seek={offset // images.MIB}",
        "conv=notrunc,sparse",
        "status=none",
    )


def _partition(disk: Path, path: Path, size: int) -> Path:
    blocks = (f"skip={START // images.MIB}", f"count={-(-size // images.MIB)}")
    _run("dd", f"if={disk}", f"of={path}", "bs=1M", *blocks, "conv=sparse", "status=none")
    return path


def _size_of(kind: str, part: Path) -> int:
    """In bytes, as the file system's own tools have it; they check it as well."""
    if kind == "ext4":
        _run("e2fsck", "-f", "-n", part)
        text = _run("dumpe2fs", "-h", part)
        return int(re.search(r"Block count:\s+(\d+)", text).group(1)) * int(
            re.search(r"Block size:\s+(\d+)", text).group(1)
        )
    if kind == "xfs":
        _run("xfs_repair", "-n", part)
        text = _run("xfs_db", "-r", "-c", "sb 0", "-c", "p dblocks blocksize", part)
        return int(re.search(r"dblocks = (\d+)", text).group(1)) * int(re.search(r"blocksize = (\d+)", text).group(1))
    _run("btrfs", "check", part)
    return int(re.search(r"^total_bytes\s+(\d+)", _run("btrfs", "inspect-internal", "dump-super", part), re.M).group(1))


def _larger(path: Path, image: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(image.stat().st_size + MORE)
    return path


def _loops() -> set[str]:
    return set(_run("losetup", "--list", "--noheadings", "--output", "BACK-FILE").split())


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_on_an_nbd_target_the_partition_and_its_file_system_fill_the_disk(kind: str, put: Put, tmp_path: Path) -> None:
    image = _image(tmp_path, kind)
    disk = _larger(tmp_path / "disk", image)
    with serving(disk) as server:
        growth = put(image, server.address, grow=True).growth
    assert (growth.partition, growth.file_system, growth.before_bytes) == (2, kind, SIZES[kind] * images.MIB)
    assert growth.after_bytes >= growth.before_bytes + MORE
    assert _size_of(kind, _partition(disk, tmp_path / "grown", growth.after_bytes)) > growth.after_bytes - images.MIB
    assert disk.read_bytes()[-512:].startswith(b"EFI PART")
    _run("sfdisk", "--verify", disk)
    assert not [name for name in _loops() if str(tmp_path) in name]


@pytest.mark.parametrize("on_device", [True, False], ids=["device", "file"])
def test_a_local_target_is_grown(on_device: bool, put: Put, tmp_path: Path) -> None:
    image = _image(tmp_path, "ext4")
    disk = _larger(tmp_path / "disk", image)
    target = attached(disk) if on_device else disk
    try:
        growth = put(image, target, grow=True).growth
    finally:
        if on_device:
            detach(target)
    assert growth.after_bytes >= growth.before_bytes + MORE
    assert _size_of("ext4", _partition(disk, tmp_path / "grown", growth.after_bytes)) > growth.after_bytes - images.MIB


def test_an_ext4_that_was_mounted_since_its_last_check_is_checked_and_grown(put: Put, tmp_path: Path) -> None:
    """resize2fs refuses it otherwise."""
    image = _image(tmp_path, "ext4")
    _run("tune2fs", "-T", "20150101", f"{image}?offset={START}")
    with _mounted(image, tmp_path / "point", "rw"):
        pass
    growth = put(image, _larger(tmp_path / "disk", image), grow=True).growth
    assert growth.file_system == "ext4"


def test_an_xfs_is_grown_while_the_image_is_mounted_which_has_the_same_uuid(put: Put, tmp_path: Path) -> None:
    image = _image(tmp_path, "xfs")
    with _mounted(image, tmp_path / "point", "ro"):
        growth = put(image, _larger(tmp_path / "disk", image), grow=True).growth
    assert growth.file_system == "xfs"


@contextmanager
def _mounted(image: Path, point: Path, mode: str) -> Iterator[None]:
    point.mkdir()
    _run("mount", "-o", f"{mode},loop,offset={START}", image, point)
    try:
        yield
    finally:
        _run("umount", point)


def test_a_partition_of_an_mbr_is_grown(put: Put, tmp_path: Path) -> None:
    image = _image(tmp_path, "ext4", "dos")
    disk = _larger(tmp_path / "disk", image)
    growth = put(image, disk, grow=True).growth
    assert growth.after_bytes >= growth.before_bytes + MORE
    assert growth.file_system == "ext4"


def test_a_logical_partition_is_refused_with_the_image_in_place(put: Put, tmp_path: Path) -> None:
    before = f"start=4MiB, size=2MiB\nstart=7MiB, size={(START - 7 * images.MIB) // 512 + 65536}, type=5"
    image = _image(tmp_path, "ext4", "dos", before)
    disk = _larger(tmp_path / "disk", image)
    with pytest.raises(GrowFailed, match="logical") as caught:
        put(image, disk, grow=True)
    assert not caught.value.is_resumable
    assert images.same(image, disk, image.stat().st_size)


def test_a_disk_that_is_one_file_system_is_grown(put: Put, tmp_path: Path) -> None:
    image = _file_system(tmp_path / "image", "ext4")
    disk = _larger(tmp_path / "disk", image)
    growth = put(image, disk, grow=True).growth
    assert (growth.partition, growth.file_system) == (None, "ext4")
    assert _size_of("ext4", disk) == disk.stat().st_size


def test_what_cannot_be_grown_is_said(put: Put, tmp_path: Path) -> None:
    image = _image(tmp_path, "swap")
    disk = _larger(tmp_path / "disk", image)
    growth = put(image, disk, grow=True).growth
    assert growth.file_system is None
    assert growth.after_bytes > growth.before_bytes


def test_a_full_target_is_grown_by_nothing(put: Put, tmp_path: Path) -> None:
    image = _image(tmp_path, "ext4")
    growth = put(image, tmp_path / "disk", grow=True).growth
    assert growth.after_bytes - growth.before_bytes <= END


def test_the_kernel_knows_the_grown_partition_of_a_device(put: Put, tmp_path: Path) -> None:
    image = _image(tmp_path, "ext4")
    disk = _larger(tmp_path / "disk", image)
    loop = attached(disk, "--partscan")
    try:
        growth = put(image, loop, grow=True).growth
        sectors = Path(f"/sys/block/{loop.name}/{loop.name}p2/size").read_text()
    finally:
        detach(loop)
    assert int(sectors) * 512 == growth.after_bytes


def test_a_broken_file_system_is_named_and_the_image_stays(put: Put, tmp_path: Path) -> None:
    image = _image(tmp_path, "xfs")
    with image.open("r+b") as file:
        file.seek(START + 4096)
        file.write(b"\xff" * 65536)
    with pytest.raises(GrowFailed, match="xfs"):
        put(image, _larger(tmp_path / "disk", image), grow=True)


def test_what_the_kernel_cannot_write_back_is_said(tmp_path: Path) -> None:
    """The programs that grow a file system are told nothing of it, and their device is closed without a word."""
    _run("mount", "-t", "tmpfs", "-o", f"size={4 * images.MIB}", "none", tmp_path)
    try:
        disk = tmp_path / "disk"
        with disk.open("wb") as file:
            file.truncate(16 * images.MIB)
        with (
            pytest.raises(GrowFailed, match="could not be written"),
            growing._as_device(disk, 0, 16 * images.MIB) as at,
        ):
            Path(at).write_bytes(b"x" * 8 * images.MIB)
        assert not [name for name in _loops() if str(tmp_path) in name]
    finally:
        _run("umount", tmp_path)
