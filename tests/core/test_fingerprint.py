"""What the kernel says of a device, on real files and loop devices that this process has open."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.core.fingerprint import DeviceChange, Fingerprint, has_open, serves_a_device
from cloudmanager.core.model import Device, FileIdentity
from cloudmanager.testing.cloud import loop_device

SIZE = 1 << 20
_LOOP_CHANGE_FD, _LOOP_SET_CAPACITY = 0x4C06, 0x4C07  # linux/loop.h


def a_file(path: Path) -> Device:
    path.write_bytes(bytes(SIZE))
    status = path.stat()
    return Device(str(path), SIZE, FileIdentity(status.st_dev, status.st_ino))


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Device]:
    """An image that this process has open."""
    device = a_file(tmp_path / "image")
    with Path(device.path).open("rb"):
        yield device


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Device]:
    """A read-only loop device."""
    a_file(tmp_path / "behind")
    node = loop_device.attach(tmp_path / "behind", read_only=True)
    yield Device(str(node), SIZE, FileIdentity(node.stat().st_rdev, 0), is_block=True)
    if loop_device.backing_file(node).startswith(str(tmp_path)):
        loop_device.detach(node, Path(loop_device.backing_file(node)))


def control(device: Device, request: int, argument: int = 0) -> None:
    with Path(device.path).open("rb") as node:
        fcntl.ioctl(node, request, argument)


def test_what_is_as_it_was_has_not_changed(image: Device, loop: Device) -> None:
    for device in (image, loop):
        assert Fingerprint.take(device).change(os.getpid) is DeviceChange.NONE


def test_an_image_that_was_cut_off_has_shrunk_and_one_that_grew_has_not(image: Device) -> None:
    fingerprint = Fingerprint.take(image)
    os.truncate(image.path, 2 * SIZE)
    assert fingerprint.change(os.getpid) is DeviceChange.NONE
    os.truncate(image.path, SIZE - 1)
    assert fingerprint.change(os.getpid) is DeviceChange.SHRUNK


def test_an_image_is_watched_also_when_its_name_is_gone(image: Device) -> None:
    fingerprint = Fingerprint.take(image)
    Path(image.path).rename(f"{image.path} elsewhere")
    assert fingerprint.change(os.getpid) is DeviceChange.NONE
    os.truncate(f"{image.path} elsewhere", 1)
    assert fingerprint.change(os.getpid) is DeviceChange.SHRUNK


def test_the_images_below_an_image_are_watched_too(image: Device, tmp_path: Path) -> None:
    base = a_file(tmp_path / "base")
    with Path(base.path).open("rb"):
        fingerprint = Fingerprint.take(Device(image.path, SIZE, image.identity, "qcow2", backing=base))
        os.truncate(base.path, 1)
        assert fingerprint.change(os.getpid) is DeviceChange.SHRUNK


def test_a_device_whose_medium_was_changed_is_gone_though_number_and_size_are_the_same(
    loop: Device, tmp_path: Path
) -> None:
    fingerprint = Fingerprint.take(loop)
    a_file(tmp_path / "other")
    with (tmp_path / "other").open("rb") as other:
        control(loop, _LOOP_CHANGE_FD, other.fileno())
    assert fingerprint.change(os.getpid) is DeviceChange.GONE


def test_a_device_that_has_become_smaller_has_shrunk(loop: Device, tmp_path: Path) -> None:
    fingerprint = Fingerprint.take(loop)
    os.truncate(tmp_path / "behind", SIZE // 2)
    control(loop, _LOOP_SET_CAPACITY)
    assert fingerprint.change(os.getpid) is DeviceChange.SHRUNK


def test_a_device_that_the_kernel_does_not_have_any_more_is_gone(loop: Device) -> None:
    known = Fingerprint.take(loop)
    nowhere = Device(loop.path, SIZE, FileIdentity(os.makedev(250, 250), 0), is_block=True)
    assert Fingerprint(nowhere, known.sequence, known.sizes).change(os.getpid) is DeviceChange.GONE


def test_nothing_is_said_of_a_device_of_which_nothing_was_known() -> None:
    nowhere = Device("/dev/nowhere", SIZE, FileIdentity(os.makedev(250, 250), 0), is_block=True)
    assert Fingerprint.take(nowhere).change(os.getpid) is DeviceChange.NONE


def test_what_a_process_has_open_is_told_by_identity(image: Device, loop: Device, tmp_path: Path) -> None:
    assert has_open(os.getpid(), image)
    assert not has_open(os.getpid(), a_file(tmp_path / "another"))
    assert not serves_a_device(os.getpid())
    with Path(loop.path).open("rb"):
        assert has_open(os.getpid(), loop)
        assert serves_a_device(os.getpid())
