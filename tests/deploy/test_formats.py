"""An image's format is decided by its bytes, and one that refers to anything else is refused by its header."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from cloudmanager.client.deploy.errors import DamagedSource, UnsafeSource, UnsupportedSource
from cloudmanager.client.deploy.formats import detect

MADE = {
    "qcow2": ("qcow2",),
    "vmdk": ("vmdk",),
    "vmdk-stream": ("vmdk", "-o", "subformat=streamOptimized"),
    "vdi": ("vdi",),
    "vhdx": ("vhdx",),
    "vhd": ("vpc",),
    "vhd-fixed": ("vpc", "-o", "subformat=fixed"),
}
FOOTER = 512


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("formats")
    raw = directory / "raw"
    raw.write_bytes(bytes(range(256)) * 4096)
    return {name: _converted(raw, directory / name, *options) for name, options in MADE.items()}


def _converted(raw: Path, image: Path, kind: str, *options: str) -> bytes:
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", kind, *options, raw, image], check=True)
    return image.read_bytes()


def _detected(content: bytes) -> str:
    return detect(lambda offset, length: content[offset : offset + length], len(content))


def _altered(content: bytes, at: int, new: bytes) -> bytes:
    at = at if at >= 0 else len(content) + at
    return content[:at] + new + content[at + len(new) :]


@pytest.mark.parametrize("name", MADE)
def test_what_qemu_makes_is_known(name: str, contents: dict[str, bytes]) -> None:
    assert _detected(contents[name]) == MADE[name][0]


@pytest.mark.parametrize(
    ("name", "at", "new", "refusal", "words"),
    [
        ("qcow2", 4, struct.pack(">I", 4), UnsupportedSource, "version"),
        ("qcow2", 32, struct.pack(">I", 2), UnsupportedSource, "encrypted"),
        ("qcow2", 8, struct.pack(">Q", 512), UnsafeSource, "backing file"),
        ("qcow2", 72, struct.pack(">Q", 1 << 2), UnsafeSource, "another file"),
        ("qcow2", 72, struct.pack(">Q", 1 << 63), UnsafeSource, "not known"),
        ("vhd", 60, struct.pack(">I", 4), UnsafeSource, "parent VHD"),
        ("vhd", 60, struct.pack(">I", 9), UnsafeSource, "unknown type"),
        ("vdi", 440, b"\1", UnsafeSource, "parent VDI"),
        ("vdi", 471, b"\1", UnsafeSource, "parent VDI"),
    ],
)
def test_a_header_that_leads_elsewhere_is_refused(
    name: str, at: int, new: bytes, refusal: type[Exception], words: str, contents: dict[str, bytes]
) -> None:
    with pytest.raises(refusal, match=words):
        _detected(_altered(contents[name], at, new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"parentCID=ffffffff", b"parentCID=0badcafe", "parent image"),
        (b'createType="monolithicSparse"', b'createType="twoGbMaxExtentFla"', "may name other files"),
        (b"createType=", b"createTipe=", "may name other files"),
        (b" SPARSE ", b" FLAT   ", "other files for its data"),
        (b"RW ", b"XX ", "other files for its data"),
    ],
)
def test_a_descriptor_that_leads_elsewhere_is_refused(
    old: bytes, new: bytes, words: str, contents: dict[str, bytes]
) -> None:
    content = contents["vmdk"]
    assert content.count(old) == 1
    with pytest.raises(UnsafeSource, match=words):
        _detected(content.replace(old, new))


def test_a_descriptor_by_itself_is_refused() -> None:
    with pytest.raises(UnsafeSource, match="descriptor"):
        _detected(b'# Disk DescriptorFile\nversion=1\nRW 4 FLAT "/etc/shadow" 0\n')


@pytest.mark.parametrize("magic", [b"COWD", b"QED\0", b"WithoutFreeSpace", b"WithouFreSpacExt"])
def test_a_format_that_is_not_read_is_refused_and_not_taken_for_raw(magic: bytes) -> None:
    with pytest.raises(UnsupportedSource):
        _detected(magic + bytes(4096))


@pytest.mark.parametrize("magic", [b"QFI\xfb", b"KDMV", b"conectix"])
def test_an_image_that_ends_within_its_header_is_damaged(magic: bytes) -> None:
    with pytest.raises(DamagedSource):
        _detected(magic + bytes(3))


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (-FOOTER, b"conectiX"),
        (-FOOTER + 100, b"\1"),  # the checksum covers it
        (0, bytes(FOOTER)),  # what is before the footer says nothing
    ],
)
def test_a_fixed_vhd_is_known_by_an_intact_footer_alone(at: int, new: bytes, contents: dict[str, bytes]) -> None:
    assert _detected(_altered(contents["vhd-fixed"], at, new)) == ("vpc" if at == 0 else "raw")


@pytest.mark.parametrize(("at", "value"), [(60, struct.pack(">I", 3)), (48, struct.pack(">Q", 1 << 50))])
def test_a_footer_that_does_not_fit_the_file_is_content(at: int, value: bytes, contents: dict[str, bytes]) -> None:
    content = contents["vhd-fixed"]
    footer = _altered(_altered(content[-FOOTER:], at, value), 64, bytes(4))
    footer = _altered(footer, 64, struct.pack(">I", ~sum(footer) & 0xFFFFFFFF))
    assert _detected(content[:-FOOTER] + footer) == "raw"
