"""Each format is told from its bytes, with the size that QEMU gives it."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.images import DamagedImage, EmptyImage, Image, ImageProblem, inspect, inspect_raw, is_container
from tests.images.conftest import CONTENT_BYTES, FLAVOURS, is_same_disk, qemu_img, qemu_size


def inspected(path: Path) -> Image:
    with path.open("rb") as file:
        return inspect(file)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_format_and_size_are_what_qemus_driver_has(flavour: str, make: Callable[[str], Path]) -> None:
    path = make(flavour)
    image = inspected(path)
    assert image.format == FLAVOURS[flavour][0]
    assert image.size_bytes == qemu_size(path, image.format)


@pytest.mark.parametrize("format_name", ["qcow2", "vmdk", "vdi", "vpc", "vhdx", "parallels"])
def test_an_image_without_any_data_is_whole(format_name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", format_name, path, "1G")
    assert inspected(path).size_bytes == qemu_size(path, format_name)


def test_compressed_qcow2_is_whole(content: Path, tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_img("convert", "-c", "-O", "qcow2", content, path)
    assert inspected(path).format == "qcow2"


@pytest.mark.parametrize("size", [512, 1000, 1 << 20, (1 << 20) + 1])
def test_raw_is_as_large_as_qemus_block_layer_makes_it(size: int, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"\x01" * size)
    assert inspected(path) == Image("raw", -(-size // 512) * 512)
    assert qemu_size(path, "raw") == -(-size // 512) * 512


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_read_only_is_said_exactly_where_qemu_cannot_write(
    flavour: str, make: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "image"
    path.write_bytes(make(flavour).read_bytes())
    image = inspected(path)
    writing = ["qemu-io", "-f", image.format, "-c", "write 0 64k", str(path)]
    output = subprocess.run(writing, check=False, capture_output=True, text=True)
    assert ("wrote 65536/65536" not in output.stdout) == bool(image.read_only_because)


def test_a_qcow2_that_qemu_marked_corrupt_is_read_only(make: Callable[[str], Path]) -> None:
    data = bytearray(make("qcow2").read_bytes())
    data[79] |= 2  # incompatible feature bit 1
    assert "qemu-img check" in inspect(io.BytesIO(data)).read_only_because


def test_a_parallels_image_that_was_not_closed_is_read_only(make: Callable[[str], Path]) -> None:
    data = bytearray(make("parallels").read_bytes())
    data[44:48] = (0x746F6E59).to_bytes(4, "little")
    assert inspect(io.BytesIO(data)).read_only_because


def test_no_bytes_are_no_image() -> None:
    with pytest.raises(EmptyImage):
        inspect(io.BytesIO())
    with pytest.raises(EmptyImage):
        inspect_raw(io.BytesIO())


def test_a_virtual_size_of_zero_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", path, "0")
    with pytest.raises(EmptyImage):
        inspected(path)


def test_anything_can_be_taken_as_raw(make: Callable[[str], Path]) -> None:
    path = make("qcow2")
    with path.open("rb") as file:
        assert inspect_raw(file) == Image("raw", -(-path.stat().st_size // 512) * 512)


@pytest.mark.parametrize("format_name", ["qed", "qcow"])
def test_abandoned_formats_are_refused_with_the_way_out(format_name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", format_name, path, "8M")
    with pytest.raises(ImageProblem, match="qemu-img convert"):
        inspected(path)


@pytest.mark.parametrize("method", [1, 2], ids=["aes", "luks"])
def test_an_encrypted_qcow2_is_refused(method: int, make: Callable[[str], Path]) -> None:
    """The header's word is enough; qemu-img measures the processor to make a real one, and fails on a busy machine."""
    data = bytearray(make("qcow2").read_bytes())
    data[35] = method
    with pytest.raises(ImageProblem, match="encrypted"):
        inspect(io.BytesIO(data))


def test_a_table_beyond_the_end_is_seen_whatever_the_counts_say(make: Callable[[str], Path]) -> None:
    data = bytearray(make("qcow2").read_bytes())
    (l1_offset,) = struct.unpack_from(">Q", data, 40)
    struct.pack_into(">Q", data, l1_offset, 1 << 63 | 1 << 40)
    with pytest.raises(DamagedImage, match="second-level table"):
        inspect(io.BytesIO(data))


def test_esx_extents_are_refused() -> None:
    with pytest.raises(ImageProblem, match="COWD"):
        inspect(io.BytesIO(b"COWD".ljust(4096, b"\0")))


def test_a_vhdx_with_an_unwritten_log_is_refused_as_qemu_refuses_to_read_it(make: Callable[[str], Path]) -> None:
    data = bytearray(make("vhdx").read_bytes())
    for header in (64 * 1024, 128 * 1024):
        data[header + 48 : header + 64] = b"\x11" * 16
    with pytest.raises(ImageProblem, match="log"):
        inspect(io.BytesIO(data))


@pytest.mark.parametrize(
    ("sector_bytes", "says"), [(4096, "logical sectors of 4096"), (520, "damaged"), (0, "damaged")]
)
def test_a_vhdx_with_other_sectors_is_refused_for_qemu_does_not_read_it(
    make: Callable[[str], Path], tmp_path: Path, sector_bytes: int, says: str
) -> None:
    data = bytearray(make("vhdx").read_bytes())
    assert inspect(io.BytesIO(data)).logical_sector_bytes == 512
    metadata = data.index(b"metadata")
    item = data.index(uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f").bytes_le, metadata)  # [MS-VHDX] 2.6.2.4
    (offset,) = struct.unpack_from("<I", data, item + 16)
    struct.pack_into("<I", data, metadata + offset, sector_bytes)
    with pytest.raises(ImageProblem, match=says):
        inspect(io.BytesIO(data))
    image = tmp_path / "image"
    image.write_bytes(data)
    with pytest.raises((AssertionError, subprocess.CalledProcessError)):
        assert qemu_size(image, "vhdx") == CONTENT_BYTES


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (4, b"\0\0\0\4", "Version 4"),
        (20, b"\0\0\0\x40", "clusters"),
        (24, b"\xff" * 8, "virtual size"),
        (36, b"\0\0\0\0", "first-level table"),
        (36, b"\xff\xff\xff\xff", "first-level table"),
        (40, b"\0\0\0\0\0\1\0\1", "start at a cluster"),
        (56, b"\0\0\0\0", "reference count table"),
        (72, b"\x80\0\0\0\0\0\0\0", "not known here"),
        (96, b"\0\0\0\7", "64 bits"),
    ],
)
def test_a_qcow2_header_that_makes_no_sense_is_named(
    offset: int, value: bytes, says: str, make: Callable[[str], Path]
) -> None:
    data = bytearray(make("qcow2").read_bytes())
    data[offset : offset + len(value)] = value
    with pytest.raises(ImageProblem, match=says):
        inspect(io.BytesIO(data))


CONTAINERS = [name for name in FLAVOURS if not name.startswith("vpc-fixed")]


@pytest.mark.parametrize("flavour", CONTAINERS)
@pytest.mark.parametrize("part", [0.01, 0.2, 0.4, 0.55, 0.6, 0.9, 0.99, 0.999])
def test_a_truncated_container_is_damaged_unless_nothing_of_the_disk_is_missing(
    flavour: str, part: float, make: Callable[[str], Path], content: Path, tmp_path: Path
) -> None:
    """QEMU opens many of these, and reads zeros where the file ends."""
    data = make(flavour).read_bytes()
    kept = int(len(data) * part)
    path = tmp_path / "image"
    path.write_bytes(data[:kept])
    try:
        image = inspected(path)
    except DamagedImage:
        return
    assert is_same_disk(path, image.format, content)


@pytest.mark.parametrize("flavour", [name for name in FLAVOURS if name.startswith("qcow2") and name != "qcow2-v2"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.97])
def test_what_is_missing_of_a_dirty_qcow2_is_found_without_its_reference_counts(
    flavour: str, part: float, make: Callable[[str], Path], content: Path, tmp_path: Path
) -> None:
    data = bytearray(make(flavour).read_bytes())
    data[79] |= 1
    path = tmp_path / "image"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(DamagedImage, match="truncated"):
        inspected(path)


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_a_compressed_cluster_may_end_inside_the_last_sector_but_not_be_cut_off_there(
    compression: str, tmp_path: Path
) -> None:
    """QEMU pads the file to the end of a sector, or does not; what is cut off may be padding, or not."""
    raw, path = tmp_path / "raw", tmp_path / "image"
    noise = random.Random(5).randbytes(40_000)  # noqa: S311 - not for secrets
    raw.write_bytes(noise + bytes(131072 - len(noise)))
    qemu_img("convert", "-c", "-O", "qcow2", "-o", f"compression_type={compression}", raw, path)
    data = path.read_bytes()
    verdicts = set()
    for missing in range(1, 512, 24):
        path.write_bytes(data[:-missing])
        try:
            inspected(path)
        except DamagedImage:
            verdicts.add("cut")
        else:
            verdicts.add("whole")
            assert is_same_disk(path, "qcow2", raw)
    assert "cut" in verdicts


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("extended", ["on", "off"])
def test_compressed_clusters_end_inside_the_file(
    compression: str, extended: str, content: Path, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    options = f"compression_type={compression},extended_l2={extended},cluster_size=16k"
    qemu_img("convert", "-c", "-O", "qcow2", "-o", options, content, path)
    assert inspected(path).format == "qcow2"
    data = path.read_bytes()
    for missing in (600, 5000, len(data) * 4 // 10):
        path.write_bytes(data[:-missing])
        with pytest.raises(DamagedImage, match="truncated"):
            inspected(path)


@pytest.mark.parametrize("flavour", CONTAINERS)
@pytest.mark.parametrize("length", [68, 511, 512, 1024])
def test_a_container_cut_down_to_its_header_is_damaged(flavour: str, length: int, make: Callable[[str], Path]) -> None:
    with pytest.raises(DamagedImage):
        inspect(io.BytesIO(make(flavour).read_bytes()[:length]))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_containers_are_told_from_other_files(flavour: str, make: Callable[[str], Path]) -> None:
    with make(flavour).open("rb") as file:
        assert is_container(file)
    assert not is_container(io.BytesIO(b"notes\n" * 100))


def test_a_count_left_over_from_a_crash_does_not_condemn_a_qcow2(tmp_path: Path) -> None:
    """A cluster was counted, and the power went before it was written: nothing refers to it."""
    path = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", path, "8M")
    data = bytearray(path.read_bytes())
    data[2 * 65536 + 2 * 40 + 1] = 1  # the reference count of cluster 40, far behind the end
    assert inspect(io.BytesIO(data)).format == "qcow2"
