"""The bytes of an emulated disk: a sparse file."""

import os
import subprocess
from pathlib import Path


def make(path: Path, size_bytes: int) -> Path:
    """A file of zeros that takes no space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        os.truncate(file.fileno(), size_bytes)
    return path


def copy(source: Path, path: Path, size_bytes: int | None = None) -> Path:
    """The bytes of `source` as they are now, holes kept, grown to `size_bytes`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, path], check=True, timeout=300)
    if size_bytes is not None and size_bytes > path.stat().st_size:
        os.truncate(path, size_bytes)
    return path
