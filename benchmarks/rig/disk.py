"""The disk that is read: random data behind a loop device that bypasses the page cache of its file."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.testing.cloud import loop_device

_BLKFLSBUF = 0x1261  # linux/fs.h
_CHUNK_BYTES = 2**20
_READ_AHEAD_SECTORS = 256
"""A disk's usual 128 KiB. A loop device's own default is twenty times that."""


@dataclass(frozen=True)
class Disk:
    device: Path
    size_bytes: int

    @property
    def number(self) -> str:
        """As control groups name it."""
        return Path("/sys/block", self.device.name, "dev").read_text().strip()

    def make_cold(self) -> None:
        """Drops what this machine has cached of it, whoever has it open."""
        with self.device.open("rb") as file:
            fcntl.ioctl(file, _BLKFLSBUF)


def sparse_image(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def random_image(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        for _ in range(size_bytes // _CHUNK_BYTES):
            file.write(os.urandom(_CHUNK_BYTES))
        os.fsync(file.fileno())
    return path


def make_file_cold(path: Path) -> None:
    """Drops its pages, which must be clean."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def disk(image: Path, size_bytes: int) -> Iterator[Disk]:
    """The first bytes of an image, read-only; the page cache of the file behind it is bypassed."""
    device = loop_device.attach(image, read_only=True, part=range(size_bytes))
    try:
        subprocess.run(["losetup", "--direct-io=on", device], check=True)
        subprocess.run(["blockdev", "--setra", str(_READ_AHEAD_SECTORS), device], check=True)
        yield Disk(device, size_bytes)
    finally:
        loop_device.detach(device, image)
