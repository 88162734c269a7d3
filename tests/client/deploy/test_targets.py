"""What a target is afterwards, and which ones are refused."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.deploy.errors import (
    Cancelled,
    ConnectionLost,
    SourceChanged,
    SourceError,
    TargetError,
    TargetInUse,
    TargetNotEmpty,
    TargetReadOnly,
    TargetTooSmall,
)
from tests.client.deploy import images
from tests.client.deploy.conftest import Put
from tests.client.deploy.relay import relayed
from tests.client.deploy.servers import Server, serving
from tests.loop_devices import attached, detach

SMALL = 12 * images.MIB
PART = SMALL // 2


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return images.sparse_image(tmp_path / "small.raw", SMALL)


def _full(path: Path, size: int) -> Path:
    path.write_bytes(b"\xa5" * size)
    return path


def _zeros(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_a_dirty_target_holds_the_image_and_its_holes_are_holes(raw: Path, dirty: Server, put: Put) -> None:
    put(raw, dirty.address, overwrite=True)
    assert images.same(raw, dirty.disk, images.SIZE)
    beyond = dirty.disk.stat().st_size - images.SIZE
    assert images.allocated(dirty.disk) <= images.allocated(raw) + beyond


def test_holes_of_a_dirty_target_are_not_sent(raw: Path, dirty: Server, put: Put) -> None:
    with relayed(dirty.socket) as relay:
        output = put(raw, relay.address, overwrite=True).written_bytes
    assert output < images.allocated(raw)
    assert relay.sent_bytes < images.allocated(raw) + images.MIB


def test_all_that_was_sent_is_told(blank: Server, put: Put, tmp_path: Path) -> None:
    assert put(_full(tmp_path / "full.raw", 3 * images.MIB), blank.address).written_bytes == 3 * images.MIB


def test_a_target_whose_server_cannot_zero_gets_zeros(small: Path, tmp_path: Path, put: Put) -> None:
    disk = _full(tmp_path / "disk", SMALL)
    with serving(disk, "--shared=1", "--discard=ignore") as server:
        put(small, server.address, overwrite=True, verify=True)
    assert images.same(small, disk)


@pytest.mark.parametrize(("discard", "gone_bytes"), [("unmap", 5 * images.MIB), ("ignore", images.MIB)])
def test_an_old_backup_partition_table_does_not_survive_beyond_the_image(
    discard: str, gone_bytes: int, small: Path, tmp_path: Path, put: Put
) -> None:
    """Where the target trims, nothing does."""
    disk = _full(tmp_path / "disk", SMALL + 5 * images.MIB)
    with serving(disk, "--shared=8", f"--discard={discard}") as server:
        put(small, server.address, overwrite=True)
    assert not disk.read_bytes()[-gone_bytes:].strip(b"\0")


def test_until_all_is_written_nothing_of_an_old_system_is_left_in_the_first_mib(tmp_path: Path, put: Put) -> None:
    """Nor of the new one, and what is zero of its own first MiB is zero afterwards."""
    image, disk = tmp_path / "image", _full(tmp_path / "disk", SMALL)
    image.write_bytes(b"boot".ljust(images.MIB, b"\0") + b"\x5a" * (SMALL - images.MIB))
    cancelled = threading.Event()
    with serving(disk) as server, relayed(server.socket) as relay:
        relay.hold_after(SMALL // 2)
        with ThreadPoolExecutor(1) as pool:
            deployed = pool.submit(put, image, relay.address, overwrite=True, cancelled=cancelled)
            relay.await_hold()
            cancelled.set()
            relay.hold_after(None)
            with pytest.raises(Cancelled):
                deployed.result()
        assert not disk.read_bytes()[: images.MIB].strip(b"\0")
        sent_bytes = put(image, server.address, overwrite=True).written_bytes
    assert images.same(image, disk)
    assert sent_bytes < SMALL - images.MIB // 2


@pytest.mark.parametrize("shared", [1, 2, 8])
def test_as_many_connections_as_the_server_has_are_enough(shared: int, small: Path, tmp_path: Path, put: Put) -> None:
    disk = _zeros(tmp_path / "disk", SMALL)
    with serving(disk, f"--shared={shared}") as server:
        put(small, server.address, verify=True)
    assert images.same(small, disk)


def test_a_file_is_made_with_the_images_size_and_holes(raw: Path, tmp_path: Path, put: Put) -> None:
    target = tmp_path / "new.raw"
    put(raw, target, verify=True)
    assert images.same(raw, target)
    assert target.stat().st_size == images.SIZE
    assert images.allocated(target) <= images.allocated(raw)


def test_a_stream_makes_a_file_that_fits(raw: Path, tmp_path: Path, put: Put) -> None:
    put(images.compressed(raw, "zstd"), tmp_path / "new.raw", verify=True)
    assert images.same(raw, tmp_path / "new.raw")


def test_a_full_file_is_overwritten_only_when_told(raw: Path, tmp_path: Path, put: Put) -> None:
    target = _full(tmp_path / "full.raw", images.SIZE)
    with pytest.raises(TargetNotEmpty):
        put(raw, target)
    assert target.read_bytes() == b"\xa5" * images.SIZE
    put(raw, target, overwrite=True, verify=True)
    assert images.same(raw, target)
    assert images.allocated(target) <= images.allocated(raw)


@pytest.mark.parametrize(
    ("write", "output"),
    [
        (lambda file: (file.seek(1080), file.write(b"\x53\xef")), "ext4"),
        (lambda file: (file.seek(512), file.write(b"EFI PART")), "GPT"),
        (lambda file: file.write(b"QFI\xfb"), "qcow2"),
        (lambda file: (file.seek(-1, os.SEEK_END), file.write(b"x")), "data"),
        (lambda file: (file.seek(images.MIB - 1), file.write(b"x")), "data"),
    ],
    ids=["ext4", "gpt", "qcow2", "the last byte", "the end of the first MiB"],
)
def test_a_target_that_is_not_empty_is_refused_and_named(
    write: Callable[[BinaryIO], object], output: str, small: Path, blank: Server, put: Put
) -> None:
    with blank.disk.open("r+b") as disk:
        write(disk)
    before = images.allocated(blank.disk)
    with pytest.raises(TargetNotEmpty, match=output) as caught:
        put(small, blank.address)
    assert not caught.value.is_resumable
    assert images.allocated(blank.disk) == before


@pytest.mark.parametrize("form", ["raw", "zstd"])
def test_a_target_that_is_too_small_is_refused(form: str, raw: Path, small: Path, put: Put, tmp_path: Path) -> None:
    disk = _zeros(tmp_path / "disk", images.SIZE - 512)
    source = raw if form == "raw" else images.compressed(raw, "zstd")
    with serving(disk) as server, pytest.raises(TargetTooSmall, match=str(images.SIZE - 512)):
        put(source, server.address)


def test_a_read_only_export_is_refused(small: Path, put: Put, tmp_path: Path) -> None:
    disk = _zeros(tmp_path / "disk", SMALL)
    with serving(disk, "--read-only") as server, pytest.raises(TargetReadOnly):
        put(small, server.address)


def test_a_server_that_is_not_there_is_said_so(small: Path, put: Put, tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost):
        put(small, NbdAddress(f"nbd+unix:///disk?socket={tmp_path / 'nobody'}"))


def test_an_image_that_qemu_has_open_is_refused(small: Path, put: Put, tmp_path: Path) -> None:
    disk = _zeros(tmp_path / "disk", SMALL)
    with serving(disk), pytest.raises(TargetInUse, match="locked"):
        put(small, disk)


def test_a_directory_is_no_target(small: Path, put: Put, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="neither"):
        put(small, tmp_path)


def test_an_image_that_is_changed_while_it_is_read_leaves_no_head(small: Path, blank: Server, put: Put) -> None:
    def change(progress: object) -> None:
        os.utime(small)

    with pytest.raises(SourceChanged):
        put(small, blank.address, progress=change)
    with blank.disk.open("rb") as disk:
        assert not disk.read(images.MIB).strip(b"\0")


def test_after_a_change_the_same_call_writes_the_target_anew(raw: Path, put: Put, tmp_path: Path) -> None:
    """It has content, but no other than the run before has left, and no partition table."""
    image = tmp_path / "copy.raw"
    subprocess.run(["cp", "--sparse=always", str(raw), str(image)], check=True)

    def change(progress: object) -> None:
        os.utime(image)

    with pytest.raises(SourceChanged):
        put(image, tmp_path / "disk", progress=change)
    put(image, tmp_path / "disk")
    assert images.same(raw, tmp_path / "disk")


def test_what_somebody_else_wrote_meanwhile_is_not_taken_for_our_own(raw: Path, put: Put, tmp_path: Path) -> None:
    image, disk = tmp_path / "copy.raw", tmp_path / "disk"
    subprocess.run(["cp", "--sparse=always", str(raw), str(image)], check=True)
    with pytest.raises(SourceChanged):
        put(image, disk, progress=lambda _progress: os.utime(image))
    with disk.open("r+b") as file:
        file.write(b"somebody else's boot sector")
    with pytest.raises(TargetNotEmpty):
        put(image, disk)


@pytest.mark.parametrize("how", ["itself", "another name", "compressed", "standard input"])
def test_the_image_is_no_target(
    how: str, small: Path, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = images.compressed(small, "zstd") if how == "compressed" else small
    before, name = image.read_bytes(), tmp_path / "name"
    name.hardlink_to(image)
    source: Path | str = image
    with image.open("rb") as stdin:
        if how == "standard input":
            monkeypatch.setattr("sys.stdin", stdin)
            source = "-"
        with pytest.raises(TargetInUse, match="where the image is read from"):
            put(source, name if how == "another name" else image, overwrite=True)
    assert image.read_bytes() == before


def test_an_image_that_a_qemu_writes_to_is_refused(blank: Server, put: Put, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="open for writing"):
        put(blank.disk, tmp_path / "new.raw")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    loop = attached(_zeros(tmp_path / "behind", SMALL + images.MIB))
    try:
        yield loop
    finally:
        detach(loop)


def test_a_block_device_gets_the_image(small: Path, device: Path, put: Put, tmp_path: Path) -> None:
    put(small, device, verify=True)
    assert images.same(small, tmp_path / "behind", SMALL)
    assert images.allocated(tmp_path / "behind") <= images.allocated(small)


def test_the_kernel_knows_the_partitions_of_a_block_device_afterwards(put: Put, tmp_path: Path) -> None:
    image = _zeros(tmp_path / "image.raw", SMALL)
    subprocess.run(["sfdisk", "-q", str(image)], input=b"label: gpt\nstart=4MiB, size=2MiB\n", check=True)
    loop = attached(_zeros(tmp_path / "behind", SMALL), "--partscan")
    try:
        put(image, loop)
        sectors = int(Path(f"/sys/block/{loop.name}/{loop.name}p1/size").read_text())
    finally:
        detach(loop)
    assert sectors == 2 * images.MIB // 512


def test_a_block_device_is_a_source(small: Path, blank: Server, put: Put, tmp_path: Path) -> None:
    loop = attached(small)
    try:
        put(loop, blank.address)
    finally:
        detach(loop)
    assert images.same(small, blank.disk, SMALL)


def test_a_dirty_block_device_gets_holes(small: Path, put: Put, tmp_path: Path) -> None:
    behind = _full(tmp_path / "behind", SMALL)
    loop = attached(behind)
    try:
        put(small, loop, overwrite=True, verify=True)
    finally:
        detach(loop)
    assert images.same(small, behind)
    assert images.allocated(behind) <= images.allocated(small)


def test_a_device_that_is_mounted_is_refused(small: Path, put: Put, tmp_path: Path) -> None:
    behind = _zeros(tmp_path / "behind", 16 * images.MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(behind)], check=True)
    loop, point = attached(behind), tmp_path / "point"
    point.mkdir()
    try:
        subprocess.run(["mount", loop, str(point)], check=True)
        try:
            with pytest.raises(TargetInUse, match="mounted"):
                put(small, loop, overwrite=True)
        finally:
            subprocess.run(["umount", str(point)], check=True)
    finally:
        detach(loop)


@pytest.mark.parametrize(("source", "target"), [("", ""), ("p1", ""), ("", "p1"), ("file", ""), ("file", "p1")])
def test_a_device_that_shares_bytes_with_the_image_is_no_target(
    source: str, target: str, put: Put, tmp_path: Path
) -> None:
    behind = _full(tmp_path / "behind", SMALL)
    before = behind.read_bytes()
    with _in_two_parts(behind) as loop, pytest.raises(TargetInUse, match="where the image is read from"):
        put(behind if source == "file" else Path(f"{loop}{source}"), Path(f"{loop}{target}"), overwrite=True)
    assert behind.read_bytes() == before


def test_a_partition_gets_what_is_in_another_one(put: Put, tmp_path: Path) -> None:
    behind = tmp_path / "behind"
    behind.write_bytes(b"\xa5" * PART + b"\x5a" * PART)
    with _in_two_parts(behind) as loop:
        put(Path(f"{loop}p1"), Path(f"{loop}p2"), overwrite=True)
    assert behind.read_bytes() == b"\xa5" * 2 * PART


@contextmanager
def _in_two_parts(file: Path) -> Iterator[Path]:
    """A loop device with two partitions, of which no table tells."""
    loop = attached(file, "--partscan")
    try:
        for number in (1, 2):
            place = [str((number - 1) * PART // 512), str(PART // 512)]
            subprocess.run(["addpart", loop, str(number), *place], check=True)
        yield loop
    finally:
        detach(loop)


def test_a_file_behind_a_loop_device_is_refused(small: Path, device: Path, put: Put, tmp_path: Path) -> None:
    with pytest.raises(TargetInUse, match=str(device)):
        put(small, tmp_path / "behind")


@pytest.mark.parametrize("target", ["/dev/null", "/proc/version", "/nowhere/disk", "x" * 300, "loop", ""])
def test_an_unsuitable_target_is_one_clear_line(
    target: str, small: Path, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(TargetError, match=r"^[^\n]*\.$"):
        put(small, target)


def test_a_vhdx_that_was_not_closed_is_called_by_its_name(put: Put, tmp_path: Path) -> None:
    """Its log has changes that are not in place."""
    image = tmp_path / "machine.vhdx"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", str(image), "8M"], check=True)
    content = bytearray(image.read_bytes())
    for at in (64 * 1024, 128 * 1024):  # both headers: a log with an identity has entries
        content[at + 48 : at + 64] = b"\1" * 16
        content[at + 4 : at + 8] = bytes(4)
        content[at + 4 : at + 8] = _crc32c(bytes(content[at : at + 4096])).to_bytes(4, "little")
    image.write_bytes(content)
    with pytest.raises(SourceError, match=r"machine\.vhdx: .*log") as caught:
        put(image, tmp_path / "disk")
    assert "/proc/self" not in str(caught.value)


def _crc32c(data: bytes) -> int:
    """Castagnoli's, as [MS-VHDX] has it."""
    rest = 0xFFFFFFFF
    for byte in data:
        rest ^= byte
        for _ in range(8):
            rest = rest >> 1 ^ (0x82F63B78 if rest & 1 else 0)
    return rest ^ 0xFFFFFFFF


def test_a_device_that_is_read_only_is_refused_before_anything_is_written(
    small: Path, tmp_path: Path, put: Put
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"kept" * 1024 * 1024 * 4)
    device = attached(disk, "--read-only")
    try:
        with pytest.raises(TargetReadOnly, match="is read-only") as caught:
            put(small, Path(device), overwrite=True)
    finally:
        detach(device)
    assert not caught.value.is_resumable


def test_a_device_that_does_not_exist_is_not_made_as_a_file(small: Path, put: Put) -> None:
    path = Path(f"/dev/cloudmanager-{os.urandom(8).hex()}")
    try:
        with pytest.raises(TargetError, match="There is no device"):
            put(small, path)
        assert not path.exists()
    finally:
        path.unlink(missing_ok=True)
