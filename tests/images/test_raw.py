"""What is no container is raw, whatever it looks like."""

from __future__ import annotations

import io
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.images import Image, inspect

SIZE = 4 * 1024 * 1024


def _disk(*parts: tuple[int, bytes]) -> bytes:
    data = bytearray(SIZE)
    for offset, content in parts:
        data[offset % SIZE : offset % SIZE + len(content)] = content
    return bytes(data)


def _noise() -> bytes:
    return random.Random(7).randbytes(SIZE - 2) + b"\x55\xaa"  # noqa: S311 - not for secrets


def _partition(kind: int, first: int, count: int) -> bytes:
    return struct.pack("<B3sB3sII", 0, b"", kind, b"", first, count)


def _iso() -> tuple[int, bytes]:
    return 32768, b"\x01CD001\x01".ljust(2048, b"\0")


MBR = (510, b"\x55\xaa")
GPT = (512, b"EFI PART\0\0\1\0")
LOOKALIKES = {
    "zeros": _disk(),
    "noise ending in 55AA": _noise(),
    "mbr": _disk((446, _partition(0x83, 63, 4000)), MBR),
    "gpt": _disk((446, _partition(0xEE, 1, 8191)), MBR, GPT),
    "hybrid mbr": _disk((446, _partition(0xEE, 1, 100) + _partition(0x07, 101, 4000)), MBR, GPT),
    "luks1": _disk((0, b"LUKS\xba\xbe\0\1aes")),
    "luks2": _disk((0, b"LUKS\xba\xbe\0\2")),
    "ntfs": _disk((0, b"\xebR\x90NTFS    "), MBR),
    "iso": _disk(_iso()),
    "footer magic of a vhd and nothing behind it": _disk((-512, b"conectix")),
    "trailer magic of a dmg and nothing behind it": _disk((-512, b"koly")),
    "text in whole sectors": b"# a shell script\n" * 512,
    "qcow2 magic one byte late": _disk((1, b"QFI\xfb")),
    "an odd number of bytes": bytes(1000),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalikes_are_raw(name: str) -> None:
    data = LOOKALIKES[name]
    assert inspect(io.BytesIO(data)) == Image("raw", -(-len(data) // 512) * 512)


def test_a_real_partition_table_is_raw(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(SIZE))
    subprocess.run(["sfdisk", "-q", path], input="label: gpt\nsize=1M\n", text=True, check=True)
    with path.open("rb") as file:
        assert inspect(file).format == "raw"


def test_a_vhd_footer_that_does_not_fit_the_file_is_only_a_raw_disks_last_sector(make: Callable[[str], Path]) -> None:
    """An image stored at the end of a disk, say: to take 512 bytes from it would be wrong."""
    data = bytes(512) + make("vpc-fixed").read_bytes()
    assert inspect(io.BytesIO(data)) == Image("raw", len(data))


def test_a_vhd_footer_with_a_wrong_checksum_is_only_a_raw_disks_last_sector(make: Callable[[str], Path]) -> None:
    data = bytearray(make("vpc-fixed").read_bytes())
    data[-400] ^= 1
    assert inspect(io.BytesIO(data)) == Image("raw", len(data))


def test_a_truncated_fixed_vhd_has_nothing_that_tells_it_from_raw(make: Callable[[str], Path]) -> None:
    data = make("vpc-fixed").read_bytes()[: 1 << 20]
    assert inspect(io.BytesIO(data)) == Image("raw", 1 << 20)


def test_a_container_that_holds_an_iso_is_the_container(make: Callable[[str], Path]) -> None:
    """A polyglot: the qcow2 header is in the system area of an ISO 9660 image."""
    data = bytearray(make("qcow2").read_bytes())
    offset, volume = _iso()
    data[offset : offset + len(volume)] = volume
    assert inspect(io.BytesIO(data)).format == "qcow2"


def test_a_container_that_ends_like_a_vhd_is_the_container(make: Callable[[str], Path]) -> None:
    qcow2 = make("qcow2").read_bytes()
    data = qcow2 + make("vpc-fixed").read_bytes()[-512:]
    assert inspect(io.BytesIO(data)).format == "qcow2"
