"""What the kernel says of a block device, and does to it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.linux import block
from cloudmanager.testing.cloud import loop_device


@pytest.fixture
def device(tmp_path: Path) -> Iterator[int]:
    """A device with sectors of 4096 bytes."""
    file = tmp_path / "disk"
    file.write_bytes(bytes(1 << 20))
    loop = loop_device.attach(file, sector_bytes=4096)
    descriptor = os.open(loop, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        loop_device.detach(loop, file)


def test_writes_are_refused_and_allowed_again(device: int) -> None:
    for read_only in (True, False):
        block.set_read_only(device, read_only)

        assert block.is_read_only(device) is read_only


def test_a_device_has_sectors_of_its_own(device: int) -> None:
    assert block.logical_sector_bytes(device) == 4096


def test_a_file_has_none(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="ioctl"):
        block.logical_sector_bytes(file.fileno())


def test_a_size_is_rounded_up_to_whole_sectors() -> None:
    assert [block.whole_sectors(size) for size in (0, 1, 512, 513)] == [0, 512, 512, 1024]
