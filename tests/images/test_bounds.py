"""An image made to exhaust its reader costs neither much time nor much memory: it is read in bounds, or refused."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cloudmanager.images import Image, ImageProblem, UnreasonableImage, inspect

MiB = 1 << 20
MOST_SECONDS = 15
"""Of processor time, on a slow machine; they took minutes."""
MOST_MEMORY = 48 * MiB


@contextmanager
def bounded() -> Iterator[None]:
    began = time.process_time()
    tracemalloc.start()
    try:
        yield
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < MOST_SECONDS
    assert peak < MOST_MEMORY


def inspected(path: Path) -> Image:
    with path.open("rb") as file:
        return inspect(file)


def write(path: Path, size: int, *parts: tuple[int, bytes]) -> Path:
    with path.open("wb") as file:
        for offset, data in parts:
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    return path


def qcow2(
    size: int, cluster_bits: int, l1_entries: int, *, features: int = 0, autoclear: int = 0, snapshots: int = 0
) -> bytes:
    """A header whose first-level table is in cluster 3, behind a table and a block of reference counts."""
    cluster = 1 << cluster_bits
    fields = (b"QFI\xfb", 3, 0, 0, cluster_bits, size, 0, l1_entries, 3 * cluster, cluster, 1, snapshots, 0)
    return struct.pack(">4sIQIIQIIQQIIQ", *fields) + struct.pack(">QQQII", features, 0, autoclear, 4, 104) + bytes(8)


@pytest.mark.parametrize("features", [0, 1], ids=["clean", "dirty"])
def test_tables_that_are_holes_are_not_walked(features: int, tmp_path: Path) -> None:
    """2,048 second-level tables of 2 MiB, in a file that takes a few MiB: whoever reads them reads 4 GiB."""
    cluster, tables = 1 << 21, 2048
    level_1 = b"".join(struct.pack(">Q", 1 << 63 | (20 + i) * cluster) for i in range(tables))
    path = write(
        tmp_path / "walk.qcow2",
        (20 + tables + 40) * cluster,
        (0, qcow2(1 << 50, 21, tables, features=features)),
        (cluster, struct.pack(">Q", 2 * cluster)),
        (3 * cluster, level_1),
    )
    with bounded():
        assert inspected(path).size_bytes == 1 << 50


def test_a_first_level_table_of_the_greatest_size_is_read_in_pieces(tmp_path: Path) -> None:
    """Four million entries, all of one second-level table."""
    cluster, entries = 1 << 16, 4 * MiB
    table_at = 3 * cluster + entries * 8
    path = write(
        tmp_path / "wide.qcow2",
        table_at + cluster,
        (0, qcow2(entries * (1 << 29), 16, entries)),
        (cluster, struct.pack(">Q", 2 * cluster)),
        (3 * cluster, struct.pack(">Q", table_at) * entries),
        (table_at, bytes(cluster)),
    )
    with bounded():
        assert inspected(path).size_bytes == entries << 29


def test_bitmaps_that_qemu_would_load_into_memory(tmp_path: Path) -> None:
    cluster = 1 << 16
    entry = struct.pack(">QIIBBHI", 5 * cluster, 1, 2, 1, 9, 1, 0) + b"a".ljust(8, b"\0")
    directory = entry * 8
    extension = struct.pack(">IIIIQQ", 0x23852875, 24, 8, 0, len(directory), 4 * cluster)
    header = qcow2(1 << 40, 16, 1 << 11, autoclear=1)[:104] + extension + bytes(8)
    refcounts = (cluster, struct.pack(">Q", 2 * cluster))
    path = write(tmp_path / "bitmaps.qcow2", 6 * cluster, (0, header), refcounts, (4 * cluster, directory))
    with bounded(), pytest.raises(UnreasonableImage, match="bitmaps"):
        inspected(path)


@pytest.mark.parametrize("snapshots", [8193, 65536, 70000], ids=str)
def test_more_snapshots_than_qemu_loads_in_a_moment(snapshots: int, tmp_path: Path) -> None:
    path = write(tmp_path / "snapshots.qcow2", 4 << 16, (0, qcow2(1 << 20, 16, 1, snapshots=snapshots)))
    with bounded(), pytest.raises(UnreasonableImage, match=f"{snapshots} snapshots"):
        inspected(path)


def vdi(blocks: int) -> bytes:
    header = bytearray(512)
    struct.pack_into("<II", header, 64, 0xBEDA107F, 0x00010001)
    struct.pack_into("<II12xI4xQIIII", header, 340, 512, 512 + blocks * 4, 512, blocks << 20, 1 << 20, 0, blocks, 0)
    return bytes(header)


def vmdk(capacity_sectors: int, grain_sectors: int, directory_sector: int) -> bytes:
    text = b'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicSparse"\n'
    text += b'RW %d SPARSE "x.vmdk"\n' % capacity_sectors
    fields = (b"KDMV", 1, 3, capacity_sectors, grain_sectors, 1, 20, 512, directory_sector, directory_sector, 128)
    return struct.pack("<4sIIQQQQIQQQ", *fields).ljust(512, b"\0") + text.ljust(20 * 512, b"\0")


def parallels(entries: int) -> bytes:
    return struct.pack("<16sIIIIIQIII", b"WithouFreSpacExt", 2, 16, 100, 128, entries, entries * 128, 0, 0, 0).ljust(64)


def vhd(entries: int) -> bytes:
    size = entries << 21
    footer = bytearray(512)
    fields = (b"conectix", 2, 0x10000, 512, 0, b"win ", 0x10000, b"Wi2k", size, size, 65535, 16, 255, 3)
    struct.pack_into(">8sIIQI4sI4sQQHBBI", footer, 0, *fields)
    struct.pack_into(">I", footer, 64, ~sum(footer) & 0xFFFFFFFF)
    header = bytearray(1024)
    struct.pack_into(">8sQQIII", header, 0, b"cxsparse", 2**64 - 1, 1536, 0x10000, entries, 1 << 21)
    struct.pack_into(">I", header, 36, ~sum(header) & 0xFFFFFFFF)
    return bytes(footer + header)


ABSURD = {
    "vdi of 256 TiB": (vdi(1 << 28), 2 << 30),
    "vmdk with a directory of 2 GiB": (vmdk(1 << 47, 2048, 21), 3 << 30),
    "vmdk with the smallest grains": (vmdk(1 << 40, 8, 21), 3 << 30),
    "parallels with a table of 4 GiB": (parallels((1 << 30) - 1), 5 << 30),
    "vhd with a table of 1 GiB": (vhd(1 << 28), 2 << 30),
}


@pytest.mark.parametrize("name", ABSURD)
def test_a_table_that_qemu_would_load_and_no_disk_needs_is_refused(name: str, tmp_path: Path) -> None:
    """A file of a few KiB, the rest of which is a hole."""
    header, size = ABSURD[name]
    path = write(tmp_path / "image", size, (0, header))
    with bounded(), pytest.raises(UnreasonableImage, match="more than that of any real disk"):
        inspected(path)


def test_a_vhdx_with_a_table_that_no_disk_needs(make: Callable[[str], Path], tmp_path: Path) -> None:
    data = bytearray(make("vhdx-small-blocks").read_bytes())
    size_at = _vhdx_item(data, b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8")
    struct.pack_into("<Q", data, size_at, 64 << 40)
    table = data.index(b"\x66\x77\xc2\x2d\x23\xf6\x00\x42")  # the region of the block table
    struct.pack_into("<I", data, table + 24, 1 << 31)
    path = write(tmp_path / "image", 4 << 30, (0, bytes(data)))
    with bounded(), pytest.raises(UnreasonableImage, match="block table"):
        inspected(path)


def _vhdx_item(data: bytearray, guid: bytes) -> int:
    (item,) = struct.unpack_from("<I", data, data.index(guid) + 16)
    return data.index(b"metadata") + int(item)


def test_overlapping_grain_tables_are_read_once(tmp_path: Path) -> None:
    """Every entry of the directory is another table, of which there are as many as sectors."""
    count = 1 << 17
    directory = b"".join(struct.pack("<I", 2048 + i) for i in range(count))
    path = write(tmp_path / "image", (2048 + count + 4) * 512, (0, vmdk(count * 512 * 8, 8, 32)), (32 * 512, directory))
    with bounded():
        assert inspected(path).format == "vmdk"


def test_what_cannot_be_checked_in_time_is_refused(
    make: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast the machine: the clock says that it took too long."""
    clock = iter(range(0, 1_000_000, 100))
    monkeypatch.setattr("cloudmanager.images.source.monotonic", lambda: next(clock))
    with pytest.raises(UnreasonableImage, match="in time"):
        inspected(make("vmdk"))


def test_a_qcow2_too_large_to_be_walked_is_judged_by_its_reference_counts(
    make: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = bytearray(make("qcow2").read_bytes())
    cut = write(tmp_path / "cut", len(data) * 6 // 10, (0, bytes(data[: len(data) * 6 // 10])))
    data[79] |= 1  # dirty: its counts say nothing
    dirty = write(tmp_path / "dirty", len(data), (0, bytes(data)))
    clock = iter(range(0, 1_000_000, 100))
    monkeypatch.setattr("cloudmanager.images.source.monotonic", lambda: next(clock))
    assert inspected(make("qcow2")).format == "qcow2"
    for path in (cut, dirty):
        with pytest.raises(UnreasonableImage, match="qemu-img check"):
            inspected(path)


@pytest.mark.parametrize("flavour", ["qcow2", "vmdk", "vdi", "vpc", "vhdx", "parallels"])
def test_a_header_with_the_largest_numbers_everywhere_is_bounded(
    flavour: str, make: Callable[[str], Path], tmp_path: Path
) -> None:
    """Each aligned number of the header in turn, in a file that is large enough for it."""
    data = make(flavour).read_bytes()
    with bounded():
        for at in range(8, 512, 4):
            damaged = bytearray(data[: 1 << 20])
            damaged[at : at + 4] = b"\xff\xff\xff\x7f"
            path = write(tmp_path / "image", 1 << 36, (0, bytes(damaged)))
            with suppress(ImageProblem):
                inspected(path)
