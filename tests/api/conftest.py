"""A service for the tests of one module, with disks of several kinds."""

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.service import Service, running, settings_for

SIZE = 1 << 20


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds `images`, which every service of the module exports, and the state."""
    directory = tmp_path_factory.mktemp("service")
    images = directory / "images"
    images.mkdir()
    for name in ("a.img", "b.img", "c.img"):
        (images / name).write_bytes(os.urandom(SIZE))
    (images / "empty.img").touch()
    _convert(images / "a.img", images / "a.qcow2")
    _convert(images / "a.img", images / "web01.qcow2")  # the examples of the documentation ask for it
    whole = (images / "a.qcow2").read_bytes()
    (images / "truncated.qcow2").write_bytes(whole[:100])
    _backed(images / "backed.qcow2")
    (images / "evidence.E01").write_bytes(b"EVF\x09\x0d\x0a\xff\x00\x01\x01\x00\x00\x00" + os.urandom(SIZE))
    (images / "bomb.vdi").write_bytes(_vdi_of_256_tib())
    os.truncate(images / "bomb.vdi", 2 << 30)
    return directory


@pytest.fixture(scope="module")
def service(directory: Path) -> Iterator[Service]:
    with running(settings_for(directory)) as service:
        yield service


def _convert(raw: Path, qcow2: Path) -> None:
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True)


def _vdi_of_256_tib() -> bytes:
    """Its block map would take 1 GiB of memory; the file is one hole behind its header."""
    header, blocks = bytearray(512), 1 << 28
    struct.pack_into("<II", header, 64, 0xBEDA107F, 0x00010001)
    struct.pack_into("<II12xI4xQIIII", header, 340, 512, 512 + blocks * 4, 512, blocks << 20, 1 << 20, 0, blocks, 0)
    return bytes(header)


def _backed(path: Path) -> None:
    """An image that would read a file of this machine."""
    options = ["-F", "raw", "-b", "/etc/hostname", "-u"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, str(SIZE)], check=True)
