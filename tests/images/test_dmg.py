"""dmg is known by its trailer, and QEMU reads what was made here."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.images import DamagedImage, ImageProblem, NotADisk, UnreasonableImage, UnsupportedImage, inspect
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


def _with_list_changed(change: Callable[[bytearray], None]) -> bytes:
    """An image whose first list of chunks was changed."""
    data = udif(CONTENT)
    begin, end = data.index(b"<data>") + 6, data.index(b"</data>")
    block = bytearray(base64.b64decode(data[begin:end]))
    change(block)
    return data[:begin] + base64.b64encode(block) + data[end:]


def _chunk(block: bytearray, number: int, field: int, layout: str, value: int) -> None:
    struct.pack_into(layout, block, 204 + number * 40 + field, value)


@pytest.mark.parametrize(
    ("field", "layout", "value", "kind", "says"),
    [
        (24, ">Q", 1 << 40, DamagedImage, "truncated"),
        (32, ">Q", 1 << 20, DamagedImage, "truncated"),
        (16, ">Q", 1 << 20, DamagedImage, "a chunk claims"),
        (0, ">I", 0x80000004, UnsupportedImage, "hdiutil convert"),
        (0, ">I", 0x80000008, UnsupportedImage, "hdiutil convert"),
    ],
)
def test_chunks_that_qemu_does_not_read_or_the_file_does_not_have(
    field: int, layout: str, value: int, kind: type[ImageProblem], says: str
) -> None:
    data = _with_list_changed(lambda block: _chunk(block, 0, field, layout, value))
    with pytest.raises(kind, match=says):
        inspect(io.BytesIO(data))


def test_what_is_missing_in_the_middle_is_found_though_the_trailer_is_there() -> None:
    data = udif(CONTENT)
    cut = bytearray(data[70_000:])
    moved = {offset: struct.unpack_from(">Q", cut, len(cut) - 512 + offset)[0] for offset in (32, 216)}
    for offset, value in moved.items():
        struct.pack_into(">Q", cut, len(cut) - 512 + offset, value - 70_000)
    with pytest.raises(DamagedImage, match="truncated"):
        inspect(io.BytesIO(cut))


def test_a_list_of_chunks_larger_than_any_is_refused(tmp_path: Path) -> None:
    trailer = bytearray(udif(CONTENT)[-512:])
    struct.pack_into(">QQ", trailer, 32, 0, 0)
    struct.pack_into(">QQ", trailer, 216, 0, 1 << 30)
    path = tmp_path / "disk.dmg"
    with path.open("wb") as file:
        file.seek(2 << 30)
        file.write(trailer)
    with path.open("rb") as file, pytest.raises(UnreasonableImage, match="property list"):
        inspect(file)


def test_a_property_list_that_is_cut_off_is_damage() -> None:
    data = udif(CONTENT).replace(b"</data>", b"<------")
    with pytest.raises(DamagedImage, match="cut off"):
        inspect(io.BytesIO(data))


def test_the_last_sector_is_enough_where_headers_only_are_wanted() -> None:
    data = _with_list_changed(lambda block: _chunk(block, 0, 24, ">Q", 1 << 40))
    assert inspect(io.BytesIO(data), check_tables=False).format == "dmg"
