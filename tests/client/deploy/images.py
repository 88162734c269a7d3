"""Images to deploy."""

import os
import random
import subprocess
from pathlib import Path

MIB = 1024 * 1024
SIZE = 96 * MIB
"""More than one unit of 64 MiB."""


def sparse_image(path: Path, size: int = SIZE, seed: int = 1) -> Path:
    """Data in some places, with borders that are no borders of blocks, and holes between."""
    chance = random.Random(seed)  # noqa: S311 # the same in each run
    with path.open("wb") as file:
        file.truncate(size)
        _put(file.fileno(), 0, chance.randbytes(3 * 4096))
        for at in range(MIB, size, 7 * MIB):
            _put(file.fileno(), at + chance.randrange(64) * 4096, chance.randbytes(chance.randrange(1, 3 * MIB // 4)))
        _put(file.fileno(), size // 2, bytes(2 * MIB))  # zeros that take space
        _put(file.fileno(), size - 4096, chance.randbytes(4096))
    return path


def _put(descriptor: int, offset: int, content: bytes) -> None:
    assert os.pwrite(descriptor, content, offset) == len(content)


def converted(raw: Path, image_format: str, name: str, *options: str) -> Path:
    path = raw.with_name(name)
    command = ["qemu-img", "convert", "-f", "raw", "-O", image_format, *options, str(raw), str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def compressed(raw: Path, program: str) -> Path:
    """Made once."""
    path = raw.with_suffix(f".{program}")
    if path.exists():
        return path
    with raw.open("rb") as plain, path.open("wb") as output:
        subprocess.run(
            [program, "-c", *(["-0"] if program == "xz" else ["-1"])], stdin=plain, stdout=output, check=True
        )
    return path


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def same(one: Path, other: Path, length: int | None = None) -> bool:
    """Whether the files hold the same bytes, where one is longer up to `length`."""
    command = ["cmp", "--silent", *(["--bytes", str(length)] if length else []), str(one), str(other)]
    return subprocess.run(command, check=False).returncode == 0
