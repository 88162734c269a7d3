"""Images to be deployed: a system with much room left, and random data."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rig.disk import random_image

_PROGRAMS = Path("/usr")
SPARSE_TO_CONTENT = 4
_GOOD_ENOUGH_BYTES = 2**18


def system_image(path: Path, size_bytes: int) -> Path:
    """An ext4 file system, a quarter of it full of this machine's own programs and libraries; the rest are holes."""
    content = path.with_suffix(".content")
    for source in _files(size_bytes // SPARSE_TO_CONTENT):
        target = content / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    command = ["mke2fs", "-q", "-t", "ext4", "-d", str(content), str(path), f"{size_bytes // 1024}k"]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(content)
    return path


def image(kind: str, path: Path, size_bytes: int) -> Path:
    """`sparse` or `random`."""
    return {"sparse": system_image, "random": random_image}[kind](path, size_bytes)


def _files(total_bytes: int) -> Iterator[Path]:
    """The same ones each time, so many bytes of them, as far as there are that many."""
    for directory, below, names in os.walk(_PROGRAMS):
        below.sort()
        for name in sorted(names):
            path = Path(directory, name)
            if path.is_symlink() or not path.is_file() or path.stat().st_size > total_bytes:
                continue
            total_bytes -= path.stat().st_size
            yield path
            if total_bytes < _GOOD_ENOUGH_BYTES:
                return
