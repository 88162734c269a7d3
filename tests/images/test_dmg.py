"""dmg is known by its trailer, and QEMU reads what was made here."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from cloudmanager.images import ImageProblem, NotADisk, inspect
from tests.images.conftest import qemu_img, qemu_size
from tests.images.udif import udif

CONTENT = bytes(range(256)) * 1024


def test_dmg_is_known_and_read_only(tmp_path: Path) -> None:
    path = tmp_path / "disk.dmg"
    path.write_bytes(udif(CONTENT))
    with path.open("rb") as file:
        image = inspect(file)
    assert (image.format, image.size_bytes) == ("dmg", len(CONTENT))
    assert "only reads dmg" in image.read_only_because
    assert qemu_size(path, "dmg") == len(CONTENT)


def test_the_dmg_of_these_tests_is_one_that_qemu_reads(tmp_path: Path) -> None:
    path, raw = tmp_path / "disk.dmg", tmp_path / "disk.raw"
    path.write_bytes(udif(CONTENT))
    qemu_img("convert", "-f", "dmg", "-O", "raw", path, raw)
    assert raw.read_bytes() == CONTENT


def test_one_segment_of_several_is_refused() -> None:
    with pytest.raises(ImageProblem, match="segments"):
        inspect(io.BytesIO(udif(CONTENT, segments=3)))


def test_a_dmg_without_its_trailer_is_no_raw_disk() -> None:
    with pytest.raises(NotADisk, match="end is missing"):
        inspect(io.BytesIO(udif(CONTENT)[:-512]))


@pytest.mark.parametrize(("offset", "value"), [(4, b"\0\0\0\5"), (8, b"\0\0\1\0"), (32, b"\xff" * 8), (224, bytes(8))])
def test_a_trailer_that_contradicts_the_file_is_only_a_raw_disks_last_sector(offset: int, value: bytes) -> None:
    data = bytearray(bytes(512) + udif(CONTENT)[512:])
    start = len(data) - 512 + offset
    data[start : start + len(value)] = value
    assert inspect(io.BytesIO(data)).format == "raw"
