"""Disks with sectors of 4096 bytes: real ones, as loop devices are, and exports of them."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.deploy import growing
from cloudmanager.client.deploy.errors import GrowFailed, SectorSizeDiffers, TargetNotEmpty
from tests.client.deploy import images
from tests.client.deploy.conftest import Put
from tests.client.deploy.servers import serving
from tests.client.deploy.test_growing import MORE, SIZES, START, _file_system, _partition, _run, _size_of
from tests.loop_devices import loop_device

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes loop devices")
SECTOR = 4096


@contextmanager
def device(disk: Path, sector_bytes: int = SECTOR) -> Iterator[Path]:
    """A disk whose sectors are of that size, for the kernel as for everybody."""
    with loop_device(disk, "--sector-size", str(sector_bytes), "--partscan") as device:
        yield device


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


def check_table(disk: Path, label: str = "gpt") -> dict[str, Any]:
    """What sfdisk and the kernel find on it, as a disk with such sectors, where they agree and complain of nothing."""
    with device(disk) as loop:
        verified = subprocess.run(["sfdisk", "--verify", loop], check=True, capture_output=True, text=True)
        assert "No errors detected" in verified.stdout
        assert "mismatch" not in verified.stderr
        table: dict[str, Any] = json.loads(_run("sfdisk", "--json", loop))["partitiontable"]
        _run("partx", "--update", loop)
        for number, entry in enumerate(table["partitions"], 1):
            shown = Path(f"/sys/block/{loop.name}/{loop.name}p{number}")
            assert int((shown / "start").read_text()) * 512 == entry["start"] * SECTOR
            assert int((shown / "size").read_text()) * 512 == entry["size"] * SECTOR
    assert table["label"] == label
    return table


@pytest.mark.parametrize(
    ("kind", "as_served"),
    [
        pytest.param("ext4", True, id="ext4-served"),
        pytest.param("xfs", False, id="xfs-local"),
        pytest.param("ext4", False, id="ext4-local", marks=pytest.mark.slow),
        pytest.param("xfs", True, id="xfs-served", marks=pytest.mark.slow),
    ],
)
def test_the_last_partition_fills_the_disk_in_its_own_sectors(
    as_served: bool, kind: str, put: Put, tmp_path: Path
) -> None:
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


def test_an_address_that_says_nothing_is_grown_as_its_table_is_laid_out(put: Put, tmp_path: Path) -> None:
    source = image(tmp_path)
    disk = larger(tmp_path / "disk", source)
    with serving(disk) as server:
        growth = put(source, server.address, grow=True).growth
    assert growth.file_system == "ext4"
    assert check_table(disk)["partitions"][1]["size"] * SECTOR == growth.after_bytes


def test_a_file_is_grown_as_its_table_is_laid_out(put: Put, tmp_path: Path) -> None:
    source = image(tmp_path)
    disk = larger(tmp_path / "disk", source)
    growth = put(source, disk, grow=True).growth
    assert check_table(disk)["partitions"][1]["size"] * SECTOR == growth.after_bytes


def test_a_partition_of_an_mbr_in_such_sectors_is_grown(put: Put, tmp_path: Path) -> None:
    source = image(tmp_path, label="dos")
    disk = larger(tmp_path / "disk", source)
    with device(disk) as loop:
        growth = put(source, loop, grow=True).growth
    assert growth.file_system == "ext4"
    assert (
        check_table(disk, "dos")["partitions"][1]["size"] * SECTOR == growth.after_bytes >= growth.before_bytes + MORE
    )


def test_a_protective_mbr_without_its_table_is_not_grown(put: Put, tmp_path: Path) -> None:
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


def zeroed(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def small_image(directory: Path, sector_bytes: int, label: str = "gpt") -> Path:
    """A disk of 16 MiB with one partition."""
    made = zeroed(directory / f"small-{label}-{sector_bytes}.raw", 16 * images.MIB)
    part = zeroed(directory / "small-part", 14 * images.MIB)
    _run("mke2fs", "-q", part)
    with device(made, sector_bytes) as disk:
        _run("sfdisk", "-q", "--no-tell-kernel", disk, given=f"label: {label}\nstart={images.MIB // sector_bytes}\n")
        _run("dd", f"if={part}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc", "status=none")
    return made


@pytest.mark.parametrize("label", ["gpt", "dos"])
@pytest.mark.parametrize("made_for", [512, SECTOR])
@pytest.mark.parametrize("has", [512, SECTOR])
def test_an_image_for_other_sectors_is_refused_before_anything_is_written(
    label: str, made_for: int, has: int, put: Put, tmp_path: Path
) -> None:
    source = small_image(tmp_path, made_for, label)
    disk = zeroed(tmp_path / "disk", 24 * images.MIB)
    with disk.open("r+b") as file:
        file.write(b"precious")
    with device(disk, has) as loop:
        if made_for == has:
            put(source, loop, overwrite=True)
        else:
            arguments = f"sectors of {has} bytes, and .* sectors of {made_for}"
            with pytest.raises(SectorSizeDiffers, match=arguments) as caught:
                put(source, loop, overwrite=True)
            assert not caught.value.is_resumable
    if made_for == has:
        assert images.same(source, disk, source.stat().st_size)
    else:
        assert disk.read_bytes().rstrip(b"\0") == b"precious"


def test_it_is_written_on_purpose(put: Put, tmp_path: Path) -> None:
    source = small_image(tmp_path, 512)
    disk = zeroed(tmp_path / "disk", 24 * images.MIB)
    with device(disk) as loop:
        put(source, loop, any_sector_size=True)
    assert images.same(source, disk, source.stat().st_size)


@pytest.mark.parametrize("kind", ["qcow2", "gzip", "nbd"])
def test_the_image_is_looked_at_in_whatever_form_it_comes(kind: str, put: Put, tmp_path: Path) -> None:
    raw, disk = small_image(tmp_path, 512), zeroed(tmp_path / "disk", 24 * images.MIB)
    with ExitStack() as stack:
        target = stack.enter_context(device(disk))
        image = tmp_path / f"image.{kind}"
        source: Path | NbdAddress = image
        if kind == "qcow2":
            _run("qemu-img", "convert", "-O", "qcow2", raw, image)
        elif kind == "gzip":
            image.write_bytes(gzip.compress(raw.read_bytes(), 1))
        else:
            source = stack.enter_context(serving(raw)).address
        with pytest.raises(SectorSizeDiffers):
            put(source, target)
    assert not disk.read_bytes().strip(b"\0")


@pytest.mark.parametrize(("output", "is_refused"), [(SECTOR, True), (512, False), (None, False)])
def test_an_export_has_the_sectors_that_its_service_says(
    output: int | None, is_refused: bool, put: Put, tmp_path: Path
) -> None:
    source, disk = small_image(tmp_path, 512), zeroed(tmp_path / "disk", 24 * images.MIB)
    with serving(disk) as server:
        target = replace(server.address, logical_sector_bytes=output)
        if is_refused:
            with pytest.raises(SectorSizeDiffers):
                put(source, target)
        else:
            put(source, target)
    assert images.same(source, disk, source.stat().st_size) is not is_refused


def test_a_server_that_takes_whole_sectors_only_says_what_it_has(put: Put, tmp_path: Path) -> None:
    source, disk = small_image(tmp_path, 512), zeroed(tmp_path / "disk", 24 * images.MIB)
    socket = tmp_path / "nbdkit.socket"
    options = ("--filter=blocksize-policy", "file", str(disk), "blocksize-minimum=4096", "blocksize-error-policy=error")
    run = f'printf ready; {sys.executable} -c "import sys; sys.stdin.read()"'
    command = ["nbdkit", "--exit-with-parent", "-U", str(socket), *options, "--run", run]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.read(5) == b"ready"
        target = NbdAddress(f"nbd+unix:///?socket={socket}", is_writable=True)
        with pytest.raises(SectorSizeDiffers):
            put(source, target)
        put(small_image(tmp_path, SECTOR), target)
        server.communicate()


def test_where_nobody_says_it_an_image_for_large_sectors_is_remarked_upon(put: Put, tmp_path: Path) -> None:
    source, disk = small_image(tmp_path, SECTOR), zeroed(tmp_path / "disk", 24 * images.MIB)
    messages: list[str] = []
    with serving(disk) as server:
        put(source, server.address, progress=lambda progress: messages.append(progress.remark))
    assert any("sectors of 4096 bytes" in remark for remark in messages)
    assert images.same(source, disk, source.stat().st_size)


def test_what_has_no_table_fits_every_disk(put: Put, tmp_path: Path) -> None:
    source = tmp_path / "plain"
    source.write_bytes(os.urandom(images.MIB))
    disk = zeroed(tmp_path / "disk", 24 * images.MIB)
    with device(disk) as loop:
        put(source, loop)
    assert images.same(source, disk, source.stat().st_size)


def test_a_file_system_that_such_a_disk_cannot_mount_is_refused(put: Put, tmp_path: Path) -> None:
    source, disk = zeroed(tmp_path / "fat", 16 * images.MIB), zeroed(tmp_path / "disk", 24 * images.MIB)
    _run("mkfs.vfat", "-S", "512", source)
    with device(disk) as loop, pytest.raises(SectorSizeDiffers):
        put(source, loop)


def test_the_command_refuses_it_and_has_a_way_to_insist(tmp_path: Path) -> None:
    source, disk = small_image(tmp_path, 512), zeroed(tmp_path / "disk", 24 * images.MIB)
    command = [sys.executable, "-m", "cloudmanager", "deploy"]
    how: dict[str, Any] = {"capture_output": True, "env": {**os.environ, "XDG_STATE_HOME": str(tmp_path)}}
    with device(disk) as loop, source.open("rb") as stream:
        for name, stdin in ((str(source), None), ("-", stream)):
            refused = subprocess.run([*command, name, str(loop)], check=False, stdin=stdin, **how)
            assert refused.returncode != 0
            assert b"--any-sector-size" in refused.stderr
            assert b"Traceback" not in refused.stderr
        assert not disk.read_bytes().strip(b"\0")
        subprocess.run([*command, str(source), str(loop), "--any-sector-size"], check=True, **how)
    assert images.same(source, disk, source.stat().st_size)


def test_a_table_in_large_sectors_is_called_what_it_is_on_a_target_that_is_not_empty(put: Put, tmp_path: Path) -> None:
    disk = small_image(tmp_path, SECTOR)
    with device(disk) as loop, pytest.raises(TargetNotEmpty, match="GPT"):
        put(small_image(tmp_path, SECTOR, "dos"), loop)
