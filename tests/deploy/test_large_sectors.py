"""Disks with sectors of 4096 bytes: real ones, as loop devices are, and exports of them."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cloudmanager.client.deploy import growing
from cloudmanager.client.deploy.errors import GrowFailed
from tests.deploy import images
from tests.deploy.loops import attached, detach
from tests.deploy.servers import serving
from tests.deploy.test_growing import MORE, SIZES, START, _file_system, _partition, _run, _size_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes loop devices")
SECTOR = 4096


@contextmanager
def device(disk: Path, sector_bytes: int = SECTOR) -> Iterator[Path]:
    """A disk whose sectors are of that size, for the kernel as for everybody."""
    loop = attached(disk, "--sector-size", str(sector_bytes), "--partscan")
    try:
        yield Path(loop)
    finally:
        detach(loop)


def image(directory: Path, kind: str = "ext4", label: str = "gpt", sector_bytes: int = SECTOR) -> Path:
    """A disk that was partitioned with such sectors; the last of its two partitions has a file system."""
    part = _file_system(directory / "part", kind)
    made = directory / f"image-{label}-{sector_bytes}.raw"
    with made.open("wb") as file:
        file.truncate(START + part.stat().st_size + images.MIB)
    first, size = START // sector_bytes, part.stat().st_size // sector_bytes
    table = f"label: {label}\nstart=4MiB, size=2MiB\nstart={first}, size={size}\n"
    with device(made, sector_bytes) as disk:
        _run("sfdisk", "-q", "--no-tell-kernel", disk, given=table)
        _run("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={START // images.MIB}", "conv=notrunc", "status=none")
    return made


def larger(path: Path, source: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(source.stat().st_size + MORE)
    return path


def check_table(disk: Path, label: str = "gpt") -> dict[str, object]:
    """What sfdisk and the kernel find on it, as a disk with such sectors, where they agree and complain of nothing."""
    with device(disk) as loop:
        verified = subprocess.run(["sfdisk", "--verify", loop], check=True, capture_output=True, text=True)
        assert "No errors detected" in verified.stdout
        assert "mismatch" not in verified.stderr
        table = json.loads(_run("sfdisk", "--json", loop))["partitiontable"]
        _run("partx", "--update", loop)
        for number, entry in enumerate(table["partitions"], 1):
            shown = Path(f"/sys/block/{loop.name}/{loop.name}p{number}")
            assert int((shown / "start").read_text()) * 512 == entry["start"] * SECTOR
            assert int((shown / "size").read_text()) * 512 == entry["size"] * SECTOR
    assert table["label"] == label
    return table


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("as_served", [True, False], ids=["served", "local"])
def test_the_last_partition_fills_the_disk_in_its_own_sectors(as_served, kind, put, tmp_path):
    source = image(tmp_path, kind)
    disk = larger(tmp_path / "disk", source)
    if as_served:
        with serving(disk) as server:
            growth = put(source, replace(server.address, logical_sector_bytes=SECTOR), grow=True).growth
    else:
        with device(disk) as loop:
            growth = put(source, loop, grow=True).growth
            known = int(Path(f"/sys/block/{loop.name}/{loop.name}p2/size").read_text()) * 512
        assert known == growth.after_bytes
    assert (growth.partition, growth.file_system, growth.before_bytes) == (2, kind, SIZES[kind] * images.MIB)
    assert growth.after_bytes >= growth.before_bytes + MORE - images.MIB
    assert _size_of(kind, _partition(disk, tmp_path / "grown", growth.after_bytes)) > growth.after_bytes - images.MIB

    table = check_table(disk)
    assert table["partitions"][1]["size"] * SECTOR == growth.after_bytes
    content = disk.read_bytes()
    sectors = len(content) // SECTOR
    for at in (1, sectors - 1):  # the header and its backup, in the second and in the last sector
        header = content[at * SECTOR : (at + 1) * SECTOR]
        own, other = struct.unpack_from("<QQ", header, 24)
        assert (header[:8], own, other) == (b"EFI PART", at, sectors - at)
    assert struct.unpack_from("<II", content, 446 + 8) == (1, sectors - 1)  # the protective MBR covers the disk


def test_an_address_that_says_nothing_is_grown_as_its_table_is_laid_out(put, tmp_path):
    source = image(tmp_path)
    disk = larger(tmp_path / "disk", source)
    with serving(disk) as server:
        growth = put(source, server.address, grow=True).growth
    assert growth.file_system == "ext4"
    assert check_table(disk)["partitions"][1]["size"] * SECTOR == growth.after_bytes


def test_a_file_is_grown_as_its_table_is_laid_out(put, tmp_path):
    source = image(tmp_path)
    disk = larger(tmp_path / "disk", source)
    growth = put(source, disk, grow=True).growth
    assert check_table(disk)["partitions"][1]["size"] * SECTOR == growth.after_bytes


def test_a_partition_of_an_mbr_in_such_sectors_is_grown(put, tmp_path):
    source = image(tmp_path, label="dos")
    disk = larger(tmp_path / "disk", source)
    with device(disk) as loop:
        growth = put(source, loop, grow=True).growth
    assert growth.file_system == "ext4"
    assert (
        check_table(disk, "dos")["partitions"][1]["size"] * SECTOR == growth.after_bytes >= growth.before_bytes + MORE
    )


def test_a_protective_mbr_without_its_table_is_not_grown(put, tmp_path):
    """It was taken for a partition, and called grown."""
    source = image(tmp_path)
    content = bytearray(source.read_bytes())
    sectors = len(content) // SECTOR
    for at in (1, sectors - 1):
        content[at * SECTOR : (at + 1) * SECTOR] = bytes(SECTOR)
    source.write_bytes(content)
    disk = larger(tmp_path / "disk", source)
    with pytest.raises(GrowFailed, match="GPT cannot be read"):
        put(source, disk, grow=True)
    assert images.same(source, disk, source.stat().st_size)
    with device(disk) as loop, pytest.raises(GrowFailed, match="GPT cannot be read"):
        growing.grow(loop)
