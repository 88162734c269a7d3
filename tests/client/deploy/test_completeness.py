"""A compressed file that is cut off is refused before anything is written, where its structure shows it."""

from __future__ import annotations

import bz2
import lzma
import random
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.client.deploy import completeness
from cloudmanager.client.deploy.errors import DamagedSource
from tests.client.deploy.conftest import Put
from tests.client.deploy.web import serving_web

MIB = 1024 * 1024
CONTENT = random.Random(9).randbytes(700_000) + bytes(2 * MIB) + random.Random(8).randbytes(90_016)  # noqa: S311 # the same each time
SKIPPABLE = struct.pack("<II", 0x184D2A5F, 5) + b"five!"


def by(program: str, *options: str, content: bytes = CONTENT) -> bytes:
    return subprocess.run([program, *options], input=content, check=True, capture_output=True).stdout


def lzip(content: bytes) -> bytes:
    """As the manual of lzip describes a member ("File format"): nothing here writes one."""
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": MIB, "lc": 3, "lp": 0, "pb": 2}]
    stream = lzma.compress(content, lzma.FORMAT_RAW, filters=filters)
    length = 6 + len(stream) + 20
    return b"LZIP\1\x14" + stream + struct.pack("<IQQ", zlib.crc32(content), len(content), length)


HALVES = (CONTENT[: len(CONTENT) // 2], CONTENT[len(CONTENT) // 2 :])
WHOLE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "xz": ("xz", lambda: lzma.compress(CONTENT, preset=0)),
    "xz of several blocks": ("xz", lambda: by("xz", "-0c", "--block-size=200000")),
    "xz without checks": ("xz", lambda: by("xz", "-0c", "--check=none")),
    "xz of two streams with padding": (
        "xz",
        lambda: bytes(8).join(lzma.compress(half) for half in HALVES) + bytes(512),
    ),
    "bzip2": ("bzip2", lambda: bz2.compress(CONTENT, 9)),
    "bzip2 of two streams": ("bzip2", lambda: b"".join(map(bz2.compress, HALVES))),
    "lzip": ("lzip", lambda: lzip(CONTENT)),
    "lzip of two members": ("lzip", lambda: b"".join(map(lzip, HALVES))),
    "zstd": ("zstd", lambda: by("zstd", "-c")),
    "zstd without checksum": ("zstd", lambda: by("zstd", "-c", "--no-check")),
    "zstd of two frames": (
        "zstd",
        lambda: SKIPPABLE + SKIPPABLE.join(by("zstd", "-c", content=half) for half in HALVES),
    ),
    "pzstd": ("zstd", lambda: by("pzstd", "-c", "-p2")),
    "lz4": ("lz4", lambda: by("lz4", "-c")),
    "lz4 with all fields": ("lz4", lambda: SKIPPABLE + by("lz4", "-c", "-B4", "-BX", "-BD", "--content-size")),
    "lz4 of two frames": ("lz4", lambda: b"".join(by("lz4", "-c", content=half) for half in HALVES)),
    "lz4 of Linux": ("lz4", lambda: by("lz4", "-lc")),
    "lzop": ("lzop", lambda: by("lzop", "-c")),
    "lzop with all checksums": ("lzop", lambda: by("lzop", "-c", "-CC")),
}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk"


def refuse(name: str, content: bytes) -> None:
    completeness.refuse_incomplete(name, lambda offset, length: content[offset : offset + length], len(content))


@pytest.mark.parametrize("kind", WHOLE)
def test_a_complete_file_arrives(kind: str, tmp_path: Path, disk: Path, put: Put) -> None:
    (tmp_path / "image").write_bytes(WHOLE[kind][1]())
    put(tmp_path / "image", disk)
    assert disk.read_bytes() == CONTENT


@pytest.mark.parametrize("kind", WHOLE)
def test_one_that_is_cut_anywhere_is_refused(kind: str) -> None:
    name, packed = WHOLE[kind][0], WHOLE[kind][1]()
    end = len(packed.rstrip(b"\0")) if name == "xz" else len(packed)
    ends = [*range(end - 60, end), *(int(end * part / 97) for part in range(1, 97, 4))]
    assert [cut for cut in ends if _is_complete(name, packed[:cut])] == []


def _is_complete(name: str, content: bytes) -> bool:
    try:
        refuse(name, content)
    except DamagedSource:
        return False
    return True


@pytest.mark.parametrize("kind", WHOLE)
def test_nothing_is_written_of_one_that_is_cut_off(kind: str, tmp_path: Path, disk: Path, put: Put) -> None:
    packed = WHOLE[kind][1]()
    (tmp_path / "image").write_bytes(packed[: len(packed) * 3 // 4])
    with pytest.raises(DamagedSource, match=r"image: The .* file is cut off: .* Copy it again from where it came"):
        put(tmp_path / "image", disk)
    assert not disk.exists()


@pytest.mark.parametrize("name", ["bzip2", "lzip"])
@pytest.mark.parametrize("behind", [bytes(700), bytes(3 * MIB), b"a signature, say" * 9])
def test_what_follows_a_complete_stream_does_not_matter_to_those_who_ignore_it(name: str, behind: bytes) -> None:
    refuse(name, WHOLE[name][1]() + behind)


@pytest.mark.parametrize("name", ["xz", "bzip2", "lzip", "zstd", "lz4", "lzop"])
def test_noise_behind_the_first_bytes_is_no_crash(name: str) -> None:
    noise = random.Random(name)  # noqa: S311 # the same each time
    head = WHOLE[name][1]()[:40]
    for length in (0, 1, 11, 12, 13, 40, 5000):
        _is_complete(name, head[: noise.randrange(41)] + noise.randbytes(length))


def test_a_middle_that_is_missing_is_noticed_by_the_index_of_xz() -> None:
    packed = lzma.compress(CONTENT, preset=0)
    with pytest.raises(DamagedSource, match="its index is of a longer or another file"):
        refuse("xz", packed[:4096] + packed[8192:])


def test_a_walk_that_takes_too_long_is_left_to_the_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, disk: Path, put: Put
) -> None:
    monkeypatch.setattr(completeness, "LONGEST_SECONDS", -1.0)
    packed = WHOLE["zstd"][1]()
    (tmp_path / "image").write_bytes(packed[:-100])
    with pytest.raises(DamagedSource, match="cannot be decompressed"):
        put(tmp_path / "image", disk)
    assert not disk.read_bytes()[:MIB].strip(b"\0")


@pytest.mark.parametrize("kind", ["xz", "bzip2", "lzip"])
def test_on_a_web_server_with_ranges_the_end_is_looked_at_first(
    kind: str, tmp_path: Path, disk: Path, put: Put
) -> None:
    image, packed = tmp_path / "image", WHOLE[kind][1]()
    image.write_bytes(packed[: len(packed) * 3 // 4])
    with serving_web(image) as site:
        with pytest.raises(DamagedSource, match="file is cut off"):
            put(site.url, disk)
        assert not disk.exists()
        assert 0 < len(site.asked) <= 4
        image.write_bytes(packed)
        put(site.url, disk)
    assert disk.read_bytes() == CONTENT
