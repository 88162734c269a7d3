"""Writes of a scratch export go to an overlay that is limited, private and thrown away."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cloudmanager.core.model import Access
from cloudmanager.core.nbd.scratch import create_overlay
from tests.core.nbd.client import Client
from tests.core.nbd.exporter import Exporter, MiB, device, read_back

TiB = 1024**4


def fill(client: Client, size_bytes: int) -> None:
    for offset in range(0, size_bytes, MiB):
        client.write(offset, os.urandom(MiB))


@pytest.mark.parametrize("size_bytes", [512, 4 * MiB, 512 * MiB + 512, 5 * TiB, 64 * TiB])
def test_an_overlay_is_a_sound_qcow2_image_of_the_disks_size(tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "overlay.qcow2"
    create_overlay(path, size_bytes)
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=True)
    info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", "-f", "qcow2", path]))
    assert info["virtual-size"] == size_bytes
    assert "backing-filename" not in info
    assert path.stat().st_blocks * 512 < 3 * MiB


def test_an_overlay_covers_a_size_that_is_no_multiple_of_a_sector(tmp_path: Path) -> None:
    path = tmp_path / "overlay.qcow2"
    create_overlay(path, 1000)
    info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", "-f", "qcow2", path]))
    assert info["virtual-size"] == 1024


@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
def test_writes_are_read_back_and_do_not_reach_the_disk(
    make_exporter: Callable[..., Exporter], sandbox: str, raw: Path
) -> None:
    before = raw.read_bytes()
    served = make_exporter(sandbox=sandbox).export(device(raw), Access.SCRATCH)
    with served.connect() as client:
        client.write(MiB, b"x" * 4096)
        client.trim(0, MiB)
        client.flush()
        assert client.read(MiB, 4096) == b"x" * 4096
    assert raw.read_bytes() == before
    expected = bytes(MiB) + b"x" * 4096 + before[MiB + 4096 :]
    assert read_back(served.uri, raw.with_suffix(".copy")) == expected


def test_a_scratch_export_of_a_container_format_reads_through(exporter: Exporter, raw: Path) -> None:
    image = raw.with_suffix(".qcow2")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image], check=True)
    served = exporter.export(device(image, "qcow2", size_bytes=4 * MiB), Access.SCRATCH)
    assert read_back(served.uri, raw.with_suffix(".copy")) == raw.read_bytes()


@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
def test_a_full_overlay_gives_the_client_an_error_and_the_server_lives(
    make_exporter: Callable[..., Exporter], sandbox: str, tmp_path: Path
) -> None:
    disk = tmp_path / "big.raw"
    disk.touch()
    os.truncate(disk, 64 * MiB)
    exporter = make_exporter(sandbox=sandbox, scratch_limit_bytes=4 * MiB)
    served = exporter.export(device(disk), Access.SCRATCH)
    with served.connect() as client:
        with pytest.raises(OSError, match="No space left"):
            fill(client, 64 * MiB)
        assert len(client.read(63 * MiB, 512)) == 512
    assert exporter.servers.is_alive(served.id)
    overlay = exporter.directory / served.id / "scratch.qcow2"
    assert overlay.stat().st_size <= 4 * MiB
    with served.connect() as client:
        assert client.read(0, 512) != bytes(512)


def test_the_overlay_outlives_its_server(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw), Access.SCRATCH)
    with served.connect() as client:
        client.write(0, b"kept" * 128)
        client.flush()
    os.kill(served.pid, 9)
    assert exporter.exited() == served.id
    with exporter.start(served.spec).connect() as client:
        assert client.read(0, 512) == b"kept" * 128


def test_an_overlay_that_no_client_was_told_of_does_not_outlive_a_change_of_size(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw), Access.SCRATCH)
    os.kill(served.pid, 9)
    assert exporter.exited() == served.id
    os.truncate(raw, 8 * MiB)
    with exporter.start(replace(served.spec, device=device(raw))).connect() as client:
        assert client.size == 8 * MiB
        assert client.read(8 * MiB - 512, 512) == bytes(512)


def test_an_overlay_keeps_its_size_when_the_disk_has_grown_since_clients_were_told(
    exporter: Exporter, raw: Path
) -> None:
    served = exporter.export(device(raw), Access.SCRATCH)
    with served.connect() as client:
        client.write(0, b"kept" * 128)
        client.flush()
    os.kill(served.pid, 9)
    assert exporter.exited() == served.id
    os.truncate(raw, 8 * MiB)
    with exporter.start(replace(served.spec, device=device(raw), advertised_size_bytes=4 * MiB)).connect() as client:
        assert client.size == 4 * MiB
        assert client.read(0, 512) == b"kept" * 128


def test_two_scratch_exports_of_one_disk_do_not_see_each_other(exporter: Exporter, raw: Path) -> None:
    with (
        exporter.export(device(raw), Access.SCRATCH).connect() as one,
        exporter.export(device(raw), Access.SCRATCH).connect() as other,
    ):
        one.write(0, b"1" * 512)
        assert other.read(0, 512) == raw.read_bytes()[:512]


def test_the_private_directory_is_private_and_deleted_at_the_end(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw), Access.SCRATCH)
    directory = exporter.directory / served.id
    assert directory.stat().st_mode & 0o077 == 0
    exporter.servers.stop(served.id)
    assert not directory.exists()
