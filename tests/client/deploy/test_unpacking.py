"""What is packed is unpacked, what is no disk is refused by its name, and what is cut off is no image."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.client.deploy import Format
from cloudmanager.client.deploy.errors import DamagedSource, SourceError, TargetTooSmall, UnsupportedSource
from tests.client.deploy import images
from tests.client.deploy.conftest import Put
from tests.client.deploy.servers import Server

MIB = images.MIB
CONTENT = random.Random(5).randbytes(300_000) + bytes(2 * MIB) + b"the end" + bytes(505)  # noqa: S311 # the same each time
SIZE = -(-len(CONTENT) // 512) * 512
CONTENT = CONTENT.ljust(SIZE, b"\0")


def by(program: str, *options: str) -> bytes:
    return subprocess.run([program, *options], input=CONTENT, check=True, capture_output=True).stdout


def tar(*members: tuple[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=kind) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def zipped(*members: tuple[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", kind) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return made.getvalue()


def skippable(length: int) -> bytes:
    return struct.pack("<II", 0x184D2A53, length) + os.urandom(length)


def sparse_tar(*options: str) -> bytes:
    """As `tar -S` of GNU makes it, which is how GCE exports an image."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        with (Path(directory) / "disk.raw").open("wb") as file:
            for at in range(0, len(CONTENT), 4096):
                if any(CONTENT[at : at + 4096]):
                    file.seek(at)
                    file.write(CONTENT[at : at + 4096])
            file.truncate(len(CONTENT))
        command = ["tar", "-C", directory, "-S", "-c", *options, "disk.raw"]
        return subprocess.run(command, check=True, capture_output=True).stdout


OVF = b"<?xml version='1.0'?><Envelope><DiskSection/></Envelope>\n"
HALVES = (CONTENT[: SIZE // 2], CONTENT[SIZE // 2 :])
PACKED = {
    "gzip": lambda: gzip.compress(CONTENT, 1),
    "gzip of two members": lambda: b"".join(map(gzip.compress, HALVES)),
    "bzip2": lambda: bz2.compress(CONTENT, 1),
    "xz": lambda: lzma.compress(CONTENT, preset=0),
    "lzma": lambda: lzma.compress(CONTENT, lzma.FORMAT_ALONE, preset=0),
    "lzop": lambda: by("lzop", "-c"),
    "lz4": lambda: by("lz4", "-c"),
    "lz4 behind a skippable frame": lambda: skippable(3) + by("lz4", "-c"),
    "zstd": lambda: by("zstd", "-c"),
    "pzstd": lambda: by("pzstd", "-c", "-p2"),
    "zstd behind skippable frames": lambda: skippable(0) + skippable(100) + by("zstd", "-c") + skippable(9),
    "tar": lambda: tar(("disk.raw", CONTENT)),
    "tar in gzip": lambda: gzip.compress(tar(("disk.raw", CONTENT)), 1),
    "tar in xz": lambda: lzma.compress(tar(("./some/disk.raw", CONTENT)), preset=0),
    "sparse tar, old": lambda: sparse_tar("--format=oldgnu"),
    "sparse tar in gzip, as GCE exports it": lambda: gzip.compress(sparse_tar("--format=oldgnu"), 1),
    "sparse tar of POSIX": lambda: sparse_tar("--format=posix"),
    "gzip in tar": lambda: tar(("disk.raw.gz", gzip.compress(CONTENT, 1))),
    "tar with a text": lambda: tar(("README", b"a text\n" * 700), ("disk.raw", CONTENT), ("disk.md5", b"\1\2" * 99)),
    "zip": lambda: zipped(("disk.raw", CONTENT)),
    "zip that is stored": lambda: zipped(("disk.raw", CONTENT), kind=zipfile.ZIP_STORED),
    "zip of bzip2": lambda: zipped(
        ("a/", b""), ("a/disk.raw", CONTENT), ("a/read.me", b"text"), kind=zipfile.ZIP_BZIP2
    ),
    "zip in gzip": lambda: gzip.compress(zipped(("disk.raw", CONTENT)), 1),
}


@pytest.fixture
def packed(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        (tmp_path / "image").write_bytes(content)
        return tmp_path / "image"

    return write


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk"


@pytest.mark.parametrize("name", PACKED)
def test_what_is_packed_arrives_unpacked(name: str, packed: Callable[[bytes], Path], disk: Path, put: Put) -> None:
    result = put(packed(PACKED[name]()), disk, verify=True)
    assert disk.read_bytes() == CONTENT
    assert result.size_bytes == len(CONTENT)


DEPLOY_STDIN = """
import sys
from pathlib import Path
from cloudmanager.client.deploy import deploy
deploy("-", Path(sys.argv[1]), journal_directory=Path(sys.argv[2]))
"""


@pytest.mark.parametrize("name", ["bzip2", "sparse tar in gzip, as GCE exports it", "zip", "tar"])
def test_on_standard_input_too(name: str, disk: Path, journals: Path) -> None:
    command = [sys.executable, "-c", DEPLOY_STDIN, str(disk), str(journals)]
    subprocess.run(command, input=PACKED[name](), check=True)
    assert disk.read_bytes() == CONTENT


@pytest.fixture(scope="module")
def vmdk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    raw = tmp_path_factory.mktemp("ova") / "raw"
    raw.write_bytes(CONTENT)
    return images.converted(raw, "vmdk", "disk.vmdk", "-o", "subformat=streamOptimized").read_bytes()


def test_the_disk_of_an_appliance_arrives(vmdk: bytes, packed: Callable[[bytes], Path], disk: Path, put: Put) -> None:
    put(
        packed(tar(("a.ovf", OVF), ("a.mf", b"SHA256(a)= 0\n"), ("a-disk1.vmdk", vmdk), kind=tarfile.USTAR_FORMAT)),
        disk,
    )
    assert disk.read_bytes().rstrip(b"\0") == CONTENT.rstrip(b"\0")


@pytest.mark.parametrize("pack", [tar, zipped, lambda *all: gzip.compress(tar(*all))])
def test_several_disks_are_refused_and_named(
    pack: Callable[..., bytes], vmdk: bytes, packed: Callable[[bytes], Path], disk: Path, put: Put
) -> None:
    with pytest.raises(UnsupportedSource, match=r"2 images.*'one.vmdk', 'two.vmdk'"):
        put(packed(pack(("one.vmdk", vmdk), ("two.vmdk", vmdk))), disk)
    assert not disk.exists()


def test_a_second_disk_that_only_the_end_of_a_stream_shows_leaves_no_head(
    packed: Callable[[bytes], Path], disk: Path, put: Put
) -> None:
    with pytest.raises(UnsupportedSource, match="'one', 'two'"):
        put(packed(gzip.compress(tar(("one", CONTENT), ("two", CONTENT)), 1)), disk)
    assert not disk.read_bytes()[:MIB].strip(b"\0")


@pytest.mark.parametrize("name", [name for name in PACKED if name != "gzip of two members"])
@pytest.mark.parametrize("part", [0.5, 0.97])
def test_what_is_cut_off_is_no_image(
    name: str, part: float, packed: Callable[[bytes], Path], disk: Path, put: Put
) -> None:
    whole = PACKED[name]()
    end = whole.rfind(b"the end") if b"the end" in whole else len(whole)  # what follows that is padding
    with pytest.raises(SourceError) as caught:
        put(packed(whole[: int(end * part)]), disk)
    assert isinstance(caught.value, DamagedSource), caught.value
    assert not disk.exists() or not disk.read_bytes()[:MIB].strip(b"\0")


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "lz4", "zstd", "lzop", "zip that is stored"])
def test_a_flipped_bit_is_found(name: str, packed: Callable[[bytes], Path], disk: Path, put: Put) -> None:
    content = bytearray(PACKED[name]())
    content[len(content) // 2] ^= 16
    with pytest.raises(DamagedSource):
        put(packed(bytes(content)), disk)
    assert not disk.exists() or not disk.read_bytes()[:MIB].strip(b"\0")


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("part", [0.0, 0.5])
def test_damage_in_a_zip_is_found_wherever_it_is(
    kind: int, part: float, packed: Callable[[bytes], Path], disk: Path, put: Put
) -> None:
    content = bytearray(zipped(("disk.raw", CONTENT), kind=kind))
    at = 60 + int(len(content) * part)
    content[at : at + 3] = (byte ^ 0x5A for byte in content[at : at + 3])
    with pytest.raises(DamagedSource, match="The archive is damaged or cut off"):
        put(packed(bytes(content)), disk)
    assert not disk.exists() or not disk.read_bytes()[:MIB].strip(b"\0")


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "lz4", "zstd", "lzop"])
def test_what_a_program_says_of_damage_is_one_line(
    name: str, packed: Callable[[bytes], Path], disk: Path, put: Put
) -> None:
    with pytest.raises(DamagedSource, match=r"\. Copy it again") as caught:
        put(packed(PACKED[name]()[:-40]), disk)
    assert "\n" not in str(caught.value)


def test_a_zstd_window_that_is_too_large_is_no_damage(packed: Callable[[bytes], Path], disk: Path, put: Put) -> None:
    with pytest.raises(UnsupportedSource, match="too much memory") as caught:
        put(packed(by("zstd", "--long=31", "--ultra", "-c")), disk)
    assert "\n" not in str(caught.value)


NAMED = {
    "case.001": "one segment of a split image",
    "case.003": "one segment of a split image",
    "image.raw.aa": "one segment",
    "disk-flat.vmdk": "an extent of a VMDK",
    "disk.e01": "named like an EWF container",
    "disk.vhd": "named like a VHD",
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("pack", [tar, zipped, lambda member: gzip.compress(tar(member), 1)])
def test_what_only_its_name_tells_to_be_no_disk_is_refused(
    name: str, pack: Callable[..., bytes], packed: Callable[[bytes], Path], disk: Path, put: Put
) -> None:
    with pytest.raises(UnsupportedSource, match=NAMED[name]):
        put(packed(pack((f"directory/{name}", CONTENT))), disk)
    assert not disk.exists() or not disk.read_bytes()[:MIB].strip(b"\0")


def test_a_packed_file_has_its_name_too(tmp_path: Path, disk: Path, put: Put) -> None:
    (tmp_path / "disk.vhd.gz").write_bytes(gzip.compress(CONTENT, 1))
    with pytest.raises(UnsupportedSource, match=r"'disk\.vhd' is named like a VHD"):
        put(tmp_path / "disk.vhd.gz", disk)


REFUSED = {
    "an EWF container": b"EVF\x09\x0d\x0a\xff\x00\x01\x01\x00\x00\x00" + os.urandom(MIB),
    "a 7z archive": b"7z\xbc\xaf\x27\x1c\0\4" + os.urandom(MIB),
    "a rar archive": b"Rar!\x1a\x07\x01\0" + os.urandom(MIB),
    "a text": b"This is what somebody wrote about the disk, and no disk.\n\n\n\n",
    "a PDF": b"%PDF-1.7\n" + os.urandom(MIB),
}


@pytest.mark.parametrize("arguments", REFUSED)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda content: zipped(("image", content))])
def test_what_is_no_disk_is_refused_by_name(
    arguments: str, pack: Callable[..., bytes], packed: Callable[[bytes], Path], disk: Path, put: Put
) -> None:
    content = pack(REFUSED[arguments])
    is_companion = arguments in ("a text", "a PDF") and content[:2] == b"PK"
    with pytest.raises(UnsupportedSource, match="holds no image" if is_companion else arguments):
        put(packed(content), disk)
    assert not disk.exists()


def test_a_long_text_in_a_stream_is_known_at_its_end(packed: Callable[[bytes], Path], disk: Path, put: Put) -> None:
    with pytest.raises(UnsupportedSource, match="a text"):
        put(packed(gzip.compress(b"line after line\n" * 1001)), disk)


@pytest.mark.parametrize("content", [*REFUSED.values(), PACKED["gzip"](), b"x"], ids=[*REFUSED, "gzip", "a byte"])
def test_bytes_as_they_are_on_purpose(content: bytes, packed: Callable[[bytes], Path], disk: Path, put: Put) -> None:
    put(packed(content), disk, image_format=Format.RAW, verify=True)
    assert disk.read_bytes() == content.ljust(-(-len(content) // 512) * 512, b"\0")


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b""),
        gzip.compress(REFUSED["a 7z archive"]),
        gzip.compress(CONTENT)[:-9],
        tar(("notes.txt", b"nothing else")),
        zipped(("a.raw", CONTENT), ("b.raw", CONTENT)),
        skippable(4),
    ],
    ids=["nothing", "packed twice", "cut off", "no image", "two images", "no frame"],
)
def test_what_is_wrong_with_an_image_names_it(
    content: bytes, packed: Callable[[bytes], Path], disk: Path, put: Put
) -> None:
    source = packed(content)
    with pytest.raises(SourceError) as refused:
        put(source, disk)
    assert refused.value.detail.startswith(f"{source}: ")
    assert str(refused.value) == refused.value.detail


def test_an_image_that_is_packed_too_often_is_refused(packed: Callable[[bytes], Path], disk: Path, put: Put) -> None:
    content = CONTENT
    for _ in range(5):
        content = gzip.compress(content, 1)
    with pytest.raises(UnsupportedSource, match="more than 4 times"):
        put(packed(content), disk)


def test_a_zip_with_a_password_is_refused(packed: Callable[[bytes], Path], disk: Path, put: Put) -> None:
    content = bytearray(zipped(("disk.raw", CONTENT)))
    for header in (b"PK\3\4", b"PK\1\2"):
        content[content.index(header) + (6 if header == b"PK\3\4" else 8)] |= 1
    with pytest.raises(UnsupportedSource, match=r"encrypted \('disk.raw'\)"):
        put(packed(bytes(content)), disk)


@pytest.mark.parametrize("pack", [gzip.compress, lambda content: zipped(("disk", content))])
def test_a_stream_of_nothing_ends_at_the_end_of_the_target(
    pack: Callable[..., bytes], packed: Callable[[bytes], Path], tmp_path: Path, put: Put, blank: Server
) -> None:
    """What a few KiB stand for may be more than any disk has."""
    with pytest.raises(TargetTooSmall):
        put(packed(pack(bytes(images.SIZE + 33 * MIB))), blank.address)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_archive_with_a_header_that_would_fill_the_memory_is_refused(
    pack: Callable[..., bytes], packed: Callable[[bytes], Path], disk: Path, put: Put
) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 64 * MIB
    content = header.tobuf(tarfile.GNU_FORMAT) + b"a" * (64 * MIB) + tar(("disk.raw", CONTENT))
    with pytest.raises(DamagedSource, match="headers larger"):
        put(packed(pack(content)), disk)
    assert not disk.exists()
