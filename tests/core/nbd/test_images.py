"""What was checked is what is served."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cloudmanager.core.errors import DeviceError, DeviceMismatch, DiskInUse, UnsafeImage
from cloudmanager.core.model import Access
from cloudmanager.core.nbd.served_files import check_open_files
from tests.core.nbd.exporter import Exporter, device, read_back, wait_gone

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_a_path_that_leads_to_another_file_is_a_mismatch(exporter: Exporter, raw: Path) -> None:
    checked = device(raw)
    raw.rename(raw.with_suffix(".old"))
    raw.write_bytes(b"another disk")
    with pytest.raises(DeviceMismatch, match="not what it was"):
        exporter.export(checked)


def test_a_device_whose_number_has_changed_is_a_mismatch(exporter: Exporter, loop: Path) -> None:
    checked = device(loop, identity=device(Path("/dev/null"), size_bytes=0).identity)
    with pytest.raises(DeviceMismatch):
        exporter.export(checked)


def test_a_file_that_was_swapped_after_the_check_is_noticed(exporter: Exporter, raw: Path) -> None:
    """The server has opened another file than the one that was checked."""
    served = exporter.export(device(raw))
    raw.rename(raw.with_suffix(".old"))
    raw.write_bytes(b"another disk")
    with pytest.raises(DeviceMismatch, match="replaced while it was being opened"):
        check_open_files(served.pid, device(raw), [])


def test_a_file_beyond_the_disk_is_noticed(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    with pytest.raises(UnsafeImage):
        check_open_files(served.pid, device(raw), [])  # its standard error is not said to be its own


def test_an_image_that_is_gone_is_an_error_of_the_device(exporter: Exporter, raw: Path) -> None:
    checked = device(raw)
    raw.unlink()
    with pytest.raises(DeviceError, match="does not exist any more"):
        exporter.export(checked)


def test_an_image_that_is_deleted_while_exported_goes_on_being_served(exporter: Exporter, raw: Path) -> None:
    content = raw.read_bytes()
    served = exporter.export(device(raw))
    raw.unlink()
    assert read_back(served.uri, raw.with_suffix(".copy")) == content


def test_a_fifo_in_the_place_of_an_image_does_not_hang(exporter: Exporter, raw: Path) -> None:
    checked = device(raw)
    raw.unlink()
    os.mkfifo(raw)
    with pytest.raises(DeviceMismatch):
        exporter.export(checked)


def test_a_failed_start_leaves_no_descriptor_open(exporter: Exporter, raw: Path) -> None:
    with pytest.raises(DeviceError):
        exporter.export(device(raw, "qcow2", backing=replace(device(raw), path="/nonexistent")))
    assert not [entry for entry in Path("/proc/self/fd").iterdir() if entry.exists() and entry.samefile(raw)]


@as_root
@pytest.mark.parametrize("access", list(Access))
def test_a_block_device_is_served(exporter: Exporter, loop: Path, raw: Path, access: Access) -> None:
    served = exporter.export(device(loop), access)
    assert read_back(served.uri, raw.with_suffix(".copy")) == raw.read_bytes()


@as_root
def test_writes_reach_the_block_device(exporter: Exporter, loop: Path) -> None:
    with exporter.export(device(loop), Access.READ_WRITE).connect() as client:
        client.write(0, b"w" * 4096)
        client.flush()
    with loop.open("rb") as file:
        assert file.read(4096) == b"w" * 4096


@as_root
def test_a_writable_device_is_held_exclusively_until_it_is_stopped(exporter: Exporter, loop: Path) -> None:
    served = exporter.export(device(loop), Access.READ_WRITE)
    with pytest.raises(OSError, match="busy"):
        os.open(loop, os.O_RDWR | os.O_EXCL)
    with pytest.raises(DiskInUse, match="held by something on this machine"):
        exporter.export(device(loop), Access.READ_WRITE)
    exporter.servers.stop(served.id)
    os.close(os.open(loop, os.O_RDWR | os.O_EXCL))


@as_root
def test_the_hold_on_a_device_outlives_the_daemon(exporter: Exporter, loop: Path) -> None:
    served = exporter.export(device(loop), Access.READ_WRITE)
    exporter.end()
    with pytest.raises(OSError, match="busy"):
        os.open(loop, os.O_RDWR | os.O_EXCL)
    os.kill(served.pid, 15)
    wait_gone(served.pid)
    os.close(os.open(loop, os.O_RDWR | os.O_EXCL))


@as_root
def test_a_device_that_is_in_use_can_still_be_read(exporter: Exporter, loop: Path) -> None:
    holder = os.open(loop, os.O_RDONLY | os.O_EXCL)
    try:
        with exporter.export(device(loop)).connect() as client:
            assert len(client.read(0, 512)) == 512
    finally:
        os.close(holder)


@as_root
def test_a_server_that_is_replaced_keeps_its_hold_on_the_device(exporter: Exporter, loop: Path) -> None:
    served = exporter.export(device(loop), Access.READ_WRITE)
    os.kill(served.pid, 9)
    assert exporter.exited() == served.id
    with pytest.raises(OSError, match="busy"):
        os.open(loop, os.O_RDWR | os.O_EXCL)
    with exporter.start(served.spec).connect() as client:
        client.write(0, b"x" * 512)
