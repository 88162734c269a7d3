"""What is no disk is known by its bytes or its name, and a disk is not taken for it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudmanager.images import (
    HEAD_BYTES,
    ContentGroup,
    FileKind,
    NotADisk,
    UnsupportedImage,
    inspect,
    inspect_raw,
    recognise,
)

MiB = 1 << 20
DISK = random.Random(3).randbytes(MiB // 2) + bytes(MiB // 2)  # noqa: S311 - not for secrets


def kind_of(data: bytes) -> FileKind | None:
    return recognise(data[:HEAD_BYTES], len(data))


def _program(*command: str) -> bytes:
    return subprocess.run(command, input=DISK, check=True, capture_output=True).stdout


def _tar(name: str, kind: int = tarfile.PAX_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=kind) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(DISK)
        archive.addfile(info, io.BytesIO(DISK))
    return made.getvalue()


def _old_tar() -> bytes:
    """Before POSIX there was no magic: nothing but the checksum."""
    made = bytearray(_tar("disk.raw", tarfile.USTAR_FORMAT))
    made[257:512] = bytes(255)
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made[:512])
    return bytes(made)


def _zip() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("disk.raw", DISK)
    return made.getvalue()


def _skippable(content: bytes, low: int = 0, length: int = 4) -> bytes:
    return struct.pack("<II", 0x184D2A50 + low, length) + bytes(length) + content


PACKED: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzip.compress(DISK, 1),
    "bzip2": lambda: bz2.compress(DISK, 1),
    "xz": lambda: lzma.compress(DISK, preset=0),
    "lzma": lambda: lzma.compress(DISK, lzma.FORMAT_ALONE, preset=0),
    "zstd": lambda: _program("zstd", "-1", "-c"),
    "zlib": lambda: zlib.compress(bytes(8192) + DISK),
    "tar": lambda: _tar("disk.raw"),
    "ova": lambda: _tar("appliance.ovf", tarfile.USTAR_FORMAT),
    "zip": _zip,
}


@pytest.mark.parametrize("name", PACKED)
def test_what_compresses_and_archives_is_known(name: str) -> None:
    data = PACKED[name]()
    found = kind_of(bytes(data))
    assert found is not None
    assert found.name == name
    with pytest.raises(NotADisk, match=found.description):
        inspect(io.BytesIO(data))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_is_known(kind: int) -> None:
    for name in ("disk.raw", "x" * 99):
        found = kind_of(_tar(name, kind))
        assert found is not None
        assert found.name == "tar"


def test_a_tar_from_before_posix_is_known_by_its_checksum() -> None:
    data = bytearray(_old_tar())
    found = kind_of(bytes(data))
    assert found is not None
    assert found.name == "tar"
    data[0] ^= 1
    assert kind_of(bytes(data)) is None


@pytest.mark.parametrize("low", [0, 7, 15])
def test_skippable_frames_stand_before_what_they_are_of(low: int) -> None:
    """pzstd begins with one; lz4 has the same ones."""
    zstd, lz4 = b"\x28\xb5\x2f\xfd" + bytes(600), b"\x04\x22\x4d\x18" + bytes(600)
    for content, name in ((zstd, "zstd"), (lz4, "lz4"), (_skippable(lz4, 3, 100), "lz4")):
        found = kind_of(_skippable(content, low))
        assert found is not None
        assert found.name == name
    found = kind_of(_skippable(zstd, low, 1 << 20))
    assert found is not None
    assert found.name == "zstd"


HEADS = {
    "E01": (b"EVF\x09\x0d\x0a\xff\x00\x01\x01\x00\x00\x00", ContentGroup.EVIDENCE),
    "Ex01": (b"EVF2\x0d\x0a\x81\x00\x02\x01", ContentGroup.EVIDENCE),
    "L01": (b"LVF\x09\x0d\x0a\xff\x00\x01", ContentGroup.EVIDENCE),
    "AFF": (b"AFF10\r\n\0", ContentGroup.EVIDENCE),
    "AFF4": (b"PK\x03\x04".ljust(30, b"\0") + b"container.description", ContentGroup.EVIDENCE),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", ContentGroup.ARCHIVE),
    "rar": (b"Rar!\x1a\x07\x01\x00", ContentGroup.ARCHIVE),
    "cpio": (b"070701000001", ContentGroup.ARCHIVE),
    "deb": (b"!<arch>\ndebian-binary", ContentGroup.ARCHIVE),
    "lzop": (b"\x89LZO\0\r\n\x1a\n", ContentGroup.COMPRESSED),
    "compress": (b"\x1f\x9d\x90\1", ContentGroup.COMPRESSED),
    "PDF": (b"%PDF-1.7\n", ContentGroup.OTHER),
    "ELF": (b"\x7fELF\2\1\1", ContentGroup.OTHER),
    "SQLite": (b"SQLite format 3\0", ContentGroup.OTHER),
    "age": (b"age-encryption.org/v1\n", ContentGroup.OTHER),
    "openssl enc": (b"Salted__\1\2\3\4", ContentGroup.OTHER),
    "PGP": (b"-----BEGIN PGP MESSAGE-----\n\xff", ContentGroup.OTHER),
    "LHA": (b"\x22\x00-lh5-", ContentGroup.OTHER),
    "VMware's memory": (b"\xd2\xbe\xd2\xbe\x08", ContentGroup.OTHER),
}


@pytest.mark.parametrize("name", HEADS)
def test_what_is_no_disk_is_refused_by_its_kind(name: str) -> None:
    head, group = HEADS[name]
    data = head.ljust(MiB, b"\0")
    found = kind_of(bytes(data))
    assert found is not None
    assert found.group is group
    with pytest.raises(NotADisk, match=f"This is {found.description.split('(', maxsplit=1)[0]}"):
        inspect(io.BytesIO(data))
    assert inspect_raw(io.BytesIO(data)).size_bytes == MiB


@pytest.mark.parametrize(
    "mark",
    [b"sprs\0\0\0\3", b"encrcdsa", b"\x3a\xff\x26\xed\1\0\0\0", b"partclone-image\0", b"MSWIM\0\0\0", b"VMA\0\0\0\0\1"],
)
def test_disks_in_formats_that_are_not_read_are_refused_by_name(mark: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="a format that is not read here"):
        inspect(io.BytesIO(mark.ljust(MiB, b"\0")))


@pytest.mark.parametrize(
    "text", [b"x" * 60, "Grüße\n".encode() * 2000 + b"!", "Notizen\r\n".encode("utf-16") * 300 + b"\n\0"]
)
def test_a_text_is_no_disk(text: bytes) -> None:
    with pytest.raises(NotADisk, match="a text"):
        inspect(io.BytesIO(text))


def test_less_than_a_sector_is_no_disk() -> None:
    with pytest.raises(NotADisk, match="smaller than one sector"):
        inspect(io.BytesIO(b"\0" * 511))


@settings(max_examples=300, deadline=None)
@given(noise=st.binary(min_size=512, max_size=8192))
def test_noise_is_a_disk(noise: bytes) -> None:
    """An encrypted volume is nothing else. What begins with none of the marks is never refused."""
    sectors = noise[: len(noise) // 512 * 512]
    if recognise(sectors[:HEAD_BYTES], len(sectors)) is None:
        assert inspect(io.BytesIO(sectors)).format == "raw"


def test_hardly_any_random_disk_is_refused() -> None:
    random_bytes = random.Random(11).randbytes  # noqa: S311 - not for secrets
    assert not any(kind_of(random_bytes(16) + bytes(1008)) for _ in range(20_000))


@pytest.mark.parametrize("mark", [b"\x78\x9c", b"\x1f\x9d", b"BZh9", b"MZ", b"PK", b"\x1f\x8b", b"\x5d\0\0"])
def test_marks_of_a_few_bytes_are_not_enough(mark: bytes) -> None:
    assert kind_of(mark + b"\xff" * MiB) is None


def test_a_boot_sector_that_begins_like_a_program_is_a_disk() -> None:
    data = bytearray(MiB)
    data[:4] = b"\x7fELF"
    data[510:512] = b"\x55\xaa"
    assert inspect(io.BytesIO(data)).format == "raw"


def _put(directory: Path, *names: str, size: int = 1024) -> None:
    for name in names:
        (directory / name).write_bytes(b"\1" * size)


def _is_disk(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            return inspect(file, path=path).format == "raw"
        except NotADisk:
            return False


@pytest.mark.parametrize(
    "names",
    [
        ("case.001", "case.002", "case.003"),
        ("case.000", "case.001"),
        ("disk.img.00", "disk.img.01"),
        ("disk.aa", "disk.ab", "disk.ac"),
        ("disk.az", "disk.ba"),
        ("xaa", "xab"),
        ("disk.rawaa", "disk.rawab"),
        ("disk.part1", "disk.part2"),
        ("disk.dd.099", "disk.dd.100"),
        ("case.002",),
        ("disk-flat.vmdk",),
        ("disk-f001.vmdk", "disk-f002.vmdk"),
    ],
)
def test_a_piece_of_a_disk_is_known_by_its_name(names: tuple[str, ...], tmp_path: Path) -> None:
    _put(tmp_path, *names)
    assert not any(_is_disk(tmp_path / name) for name in names)


@pytest.mark.parametrize(
    "names",
    [
        ("case.001",),
        ("disk1.raw", "disk2.raw", "disk3.raw"),
        ("sda1.img", "sda2.img"),
        ("disk.img", "disk.img.10", "disk.img.11"),
        ("disk.img.1", "disk.img.2"),
        ("backup.2024", "backup.2025"),
        ("a.dd", "b.dd"),
        ("disk",),
        ("usb.iso", "usb.img"),
    ],
)
def test_whole_disks_beside_each_other_are_disks(names: tuple[str, ...], tmp_path: Path) -> None:
    _put(tmp_path, *names)
    assert all(_is_disk(tmp_path / name) for name in names)


def test_images_of_partitions_are_not_taken_for_pieces(tmp_path: Path) -> None:
    _put(tmp_path, "sda.part1", size=1024)
    _put(tmp_path, "sda.part2", size=4096)
    assert _is_disk(tmp_path / "sda.part1")
    assert _is_disk(tmp_path / "sda.part2")


def test_a_name_of_its_own_makes_a_piece_a_disk(tmp_path: Path) -> None:
    _put(tmp_path, "case.001", "case.002")
    (tmp_path / "first.raw").hardlink_to(tmp_path / "case.001")
    assert _is_disk(tmp_path / "first.raw")


@pytest.mark.parametrize(
    "suffix", [".vhd", ".vmdk", ".qcow2", ".vdi", ".vhdx", ".E01", ".dmg", ".gz", ".7z", ".gpg", ".br"]
)
def test_a_name_that_promises_a_format_is_not_that_of_a_raw_disk(suffix: str, tmp_path: Path) -> None:
    """A fixed VHD without its footer, say: nothing but the name tells that its end is missing."""
    _put(tmp_path, f"disk{suffix}")
    with (tmp_path / f"disk{suffix}").open("rb") as file, pytest.raises(NotADisk, match=r"name it \.raw"):
        inspect(file, path=tmp_path / f"disk{suffix}")


def test_a_dmg_that_is_a_raw_disk_begins_like_one(tmp_path: Path) -> None:
    path = tmp_path / "disk.dmg"
    path.write_bytes(b"ER" + bytes(1022))
    assert _is_disk(path)


def test_an_extent_of_a_vmdk_is_refused_by_its_kind(tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(DISK)
    command = [
        "qemu-img",
        "convert",
        "-O",
        "vmdk",
        "-o",
        "subformat=twoGbMaxExtentSparse",
        str(raw),
        str(tmp_path / "disk.vmdk"),
    ]
    subprocess.run(command, check=True)
    with (tmp_path / "disk-s001.vmdk").open("rb") as file, pytest.raises(NotADisk, match="an extent of a VMDK"):
        inspect(file)
