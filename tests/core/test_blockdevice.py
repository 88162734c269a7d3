"""What is done to a device of ours, on real loop devices."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.core.blockdevice import flush, holders, prepare
from cloudmanager.core.errors import DeviceMismatch, DiskInUse
from cloudmanager.core.model import Device, FileIdentity
from cloudmanager.testing.cloud import loop_device

SIZE = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.fixture
def device(file: Path) -> Iterator[Device]:
    node = loop_device.attach(file)
    yield Device(str(node), SIZE, FileIdentity(node.stat().st_rdev, 0), is_block=True)
    loop_device.detach(node, file)


def test_what_somebody_wrote_and_has_not_closed_is_on_the_disk_after_a_flush(device: Device, file: Path) -> None:
    writer = os.open(device.path, os.O_RDWR)
    try:
        os.pwrite(writer, b"w" * 4096, 0)
        assert file.read_bytes()[:4096] == bytes(4096)
        flush(device)
        assert file.read_bytes()[:4096] == b"w" * 4096
    finally:
        os.close(writer)


def test_a_device_that_is_held_is_not_flushed_but_refused(device: Device) -> None:
    holder = os.open(device.path, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(DiskInUse, match="another program of this machine, exclusively") as refused:
            flush(device)
        assert refused.value.retriable
        assert holders(device) == []
    finally:
        os.close(holder)


def test_a_device_that_is_prepared_read_only_takes_no_writes_until_it_is_prepared_for_them(device: Device) -> None:
    writer = os.open(device.path, os.O_RDWR)
    try:
        prepare(device, read_only=True)
        with pytest.raises(PermissionError):
            os.pwrite(writer, b"w" * 512, 0)
        prepare(device, read_only=False)
        assert os.pwrite(writer, b"w" * 512, 0) == 512
    finally:
        os.close(writer)


def test_nothing_is_done_to_another_device_than_the_one_that_was_found(device: Device) -> None:
    elsewhere = Device(device.path, SIZE, FileIdentity(device.identity.device + 1, 0), is_block=True)
    for act in (flush, lambda it: prepare(it, read_only=True)):
        with pytest.raises(DeviceMismatch):
            act(elsewhere)
