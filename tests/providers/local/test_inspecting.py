"""What an image directory holds besides disks, and inspections that take long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.core.errors import DeviceNotReady, NotADisk
from cloudmanager.core.inspection import Turns
from cloudmanager.core.model import DiskId
from cloudmanager.providers.local import LocalProvider
from cloudmanager.providers.local.settings import LocalSettings
from tests.providers.local.conftest import MiB, disk_id, found, qemu_img

EVIDENCE = b"EVF\x09\x0d\x0a\xff\x00\x01\x01\x00\x00\x00"


def test_evidence_containers_are_listed_with_the_reason(provider: LocalProvider, directory: Path) -> None:
    (directory / "evidence.E01").write_bytes(EVIDENCE + bytes(777))
    listed = found(provider)["evidence.E01"]
    assert listed.access == frozenset()
    assert "ewfexport" in listed.description
    with pytest.raises(NotADisk, match="loop device"):
        provider.describe(disk_id("evidence.E01"))


def test_segments_are_refused_as_long_as_they_are_not_joined(provider: LocalProvider, directory: Path) -> None:
    (directory / "case.001").write_bytes(b"\1" * MiB)
    assert provider.describe(disk_id("case.001")).format == "raw"
    (directory / "case.002").write_bytes(b"\2" * MiB)
    for name in ("case.001", "case.002"):
        with pytest.raises(NotADisk, match="one segment of a split image"):
            provider.describe(disk_id(name))


def test_a_segment_is_one_under_the_name_of_a_link_too(provider: LocalProvider, directory: Path) -> None:
    for name in ("case.001", "case.002"):
        (directory / name).write_bytes(b"\1" * MiB)
    (directory / "disk.raw").symlink_to(directory / "case.001")
    with pytest.raises(NotADisk):
        provider.describe(disk_id("disk.raw"))


def test_a_raw_disk_stays_one_when_a_client_writes_an_archive_onto_it(provider: LocalProvider, raw: Path) -> None:
    disk = provider.describe(disk_id(raw.name))
    with raw.open("r+b") as file:
        file.write(b"\x1f\x8b\x08" + bytes(509))
    assert provider.locate(disk).format == "raw"


def test_a_block_device_is_raw_whatever_is_on_it(directory: Path, loop: Callable[..., str]) -> None:
    image = directory / "evidence.E01"
    image.write_bytes(EVIDENCE.ljust(MiB, b"\0"))
    device = loop(image)
    provider = LocalProvider("local", LocalSettings(devices=True))
    assert provider.describe(DiskId.parse(f"local:/dev/{Path(device).name}")).format == "raw"


def test_a_list_reads_headers_only(provider: LocalProvider, raw: Path, directory: Path) -> None:
    """That an image is truncated is found when somebody wants it: a list of thousands would take minutes."""
    whole = directory / "whole.qcow2"
    qemu_img("convert", "-O", "qcow2", raw, whole)
    data = whole.read_bytes()
    (directory / "cut.qcow2").write_bytes(data[: len(data) * 9 // 10])
    assert found(provider)["cut.qcow2"].format == "qcow2"


def test_only_so_many_inspections_go_on_at_a_time() -> None:
    turns = Turns(at_once=2, wait_seconds=0.01)
    with turns.taken(), turns.taken():
        with pytest.raises(DeviceNotReady) as refused, turns.taken():
            pass
        assert refused.value.retriable
        assert refused.value.retry_after
    with turns.taken():
        pass


def test_a_turn_that_becomes_free_is_taken() -> None:
    turns = Turns(at_once=1, wait_seconds=60)
    has_begun, may_end = threading.Event(), threading.Event()

    def inspect() -> None:
        with turns.taken():
            has_begun.set()
            may_end.wait()

    thread = threading.Thread(target=inspect)
    thread.start()
    has_begun.wait()
    may_end.set()
    with turns.taken():
        thread.join()
