"""What is inspected, what clients are told and what is served have one size, in every format and access."""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.confined import Process
from cloudmanager.core.errors import SizeMismatch
from cloudmanager.core.model import Access, Device
from cloudmanager.core.nbd.handshake import ExpectedExport, WrongSize, await_ready
from cloudmanager.images import inspect
from tests.core.nbd.exporter import WAIT_SECONDS, Exporter, MiB, device

SECTOR = 512
SIZE = 100 * MiB
GEOMETRY = (3011, 4, 17)
"""As Azure's tools and VirtualBox write it: smaller than the disk."""
LAST_SECTOR = b"LAST SECTOR".ljust(SECTOR, b"!")


def _sealed(footer: bytearray) -> bytes:
    footer[64:68] = bytes(4)
    struct.pack_into(">I", footer, 64, ~sum(footer) & 0xFFFFFFFF)
    return bytes(footer)


def fixed_vhd(path: Path, creator: bytes, geometry: tuple[int, int, int] = GEOMETRY) -> Path:
    footer = bytearray(SECTOR)
    fields = (b"conectix", 2, 0x10000, 2**64 - 1, 0, creator, 0x10000, b"Wi2k", SIZE, SIZE, *geometry, 2)
    struct.pack_into(">8sIIQI4sI4sQQHBBI", footer, 0, *fields)
    with path.open("wb") as file:
        file.truncate(SIZE - SECTOR)
        file.seek(SIZE - SECTOR)
        file.write(LAST_SECTOR + _sealed(footer))
    return path


def dynamic_vhd(path: Path, creator: bytes) -> Path:
    """As qemu-img makes it, then said to be somebody else's."""
    raw = path.with_suffix(".raw")
    with raw.open("wb") as file:
        file.seek(SIZE - SECTOR)
        file.write(LAST_SECTOR)
    subprocess.run(["qemu-img", "convert", "-O", "vpc", "-o", "force_size=on", raw, path], check=True)
    data = bytearray(path.read_bytes())
    for at in (0, len(data) - SECTOR):
        footer = data[at : at + SECTOR]
        footer[28:32] = creator
        struct.pack_into(">HBB", footer, 56, *GEOMETRY)
        data[at : at + SECTOR] = _sealed(footer)
    path.write_bytes(data)
    return path


def located(path: Path) -> Device:
    with path.open("rb") as file:
        image = inspect(file)
    return device(path, image.format, size_bytes=image.size_bytes, driver_options=image.driver_options)


@pytest.mark.parametrize("creator", [b"wa\0\0", b"vs  ", b"vbox", b"vmw ", b"????", b"win ", b"qem2"])
@pytest.mark.parametrize("make", [fixed_vhd, dynamic_vhd])
@pytest.mark.parametrize("access", [Access.READ_ONLY, Access.SCRATCH])
def test_a_vhd_is_as_large_as_its_size_field_says(
    make: Callable[[Path, bytes], Path], creator: bytes, access: Access, exporter: Exporter, tmp_path: Path
) -> None:
    disk = located(make(tmp_path / "disk.vhd", creator))
    assert disk.size_bytes == SIZE
    with exporter.export(disk, access).connect() as client:
        assert client.size == SIZE
        assert client.read(SIZE - SECTOR, SECTOR) == LAST_SECTOR


@pytest.mark.parametrize("creator", [b"vpc ", b"qemu"])
def test_a_vhd_of_virtual_pc_is_as_large_as_its_geometry(creator: bytes, exporter: Exporter, tmp_path: Path) -> None:
    disk = located(fixed_vhd(tmp_path / "disk.vhd", creator))
    cylinders, heads, sectors = GEOMETRY
    assert disk.size_bytes == cylinders * heads * sectors * SECTOR
    with exporter.export(disk).connect() as client:
        assert client.size == disk.size_bytes


def test_a_geometry_beyond_the_end_of_the_file_is_not_believed(exporter: Exporter, tmp_path: Path) -> None:
    disk = located(fixed_vhd(tmp_path / "disk.vhd", b"vpc ", (3100, 4, 17)))
    assert disk.size_bytes == SIZE
    with exporter.export(disk).connect() as client:
        assert client.size == SIZE


@pytest.mark.parametrize("tls", ["off", "psk"])
@pytest.mark.parametrize("access", list(Access))
@pytest.mark.parametrize("format_name", ["raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx", "parallels"])
def test_an_image_that_qemu_reads_as_smaller_is_not_served(
    format_name: str, access: Access, tls: str, make_exporter: Callable[..., Exporter], tmp_path: Path
) -> None:
    path = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", format_name, path, "8M"], check=True)
    disk = device(path, format_name, size_bytes=16 * MiB)
    with pytest.raises(SizeMismatch, match="smaller"):
        make_exporter(tls=tls).export(disk, access)


def test_a_server_that_shows_another_size_is_not_ready(exporter: Exporter, raw: Path) -> None:
    """Whatever serves it, and however it came to that."""
    served = exporter.export(device(raw))
    readiness = ExpectedExport(
        server=Process(served.pid),
        name=served.spec.name,
        size_bytes=served.spec.served_bytes + SECTOR,
        requires_tls=False,
        deadline=time.monotonic() + WAIT_SECONDS,
        is_occupied=lambda: False,
    )
    with pytest.raises(WrongSize) as refused:
        await_ready(("127.0.0.1", served.port), readiness)
    readiness.server.close()
    assert refused.value.size_bytes == served.spec.served_bytes


@pytest.mark.parametrize("access", list(Access))
@pytest.mark.parametrize("format_name", ["raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx", "parallels"])
def test_never_more_is_served_than_clients_are_told_of(
    format_name: str, access: Access, exporter: Exporter, tmp_path: Path
) -> None:
    path = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", format_name, path, "8M"], check=True)
    with exporter.export(device(path, format_name, size_bytes=4 * MiB), access).connect() as client:
        assert client.size == 4 * MiB


def test_a_raw_image_of_an_odd_length_is_served_to_the_end_of_its_last_sector(
    exporter: Exporter, tmp_path: Path
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"\1" * 1000)
    with exporter.export(located(path)).connect() as client:
        assert client.read(512, 512) == b"\1" * 488 + bytes(24)
