"""A raw image with an ext4 file system, made and read without mounting anything."""

import hashlib
import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cloudmanager.cli.demo.programs import run_program

SIZE = 64 * 1024**2


@dataclass(frozen=True)
class DemoDisk:
    """An image file, and what is in it."""

    path: Path
    sha256: str
    files: Mapping[str, bytes]
    """Of the top directory."""

    @classmethod
    def make(cls, directory: Path, on_command: Callable[..., None]) -> Self:
        """A new one in a new directory."""
        directory.mkdir()
        path = directory / "demo.img"
        files = {
            "hello.txt": b"This line was read from a file system, from a disk that was served over NBD.\n",
            "noise.bin": random.Random(4711).randbytes(8 * 1024**2),  # noqa: S311 - bytes that do not compress
        }
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix="files-") as source:
            for name, content in files.items():
                Path(source, name).write_bytes(content)
            on_command("mke2fs", "-t", "ext4", "-d", "files/", path.name)
            with path.open("wb") as file:
                file.truncate(SIZE)
            run_program("mke2fs", "-q", "-t", "ext4", "-d", source, str(path))
        return cls(path, sha256(path), files)

    def list_files(self) -> dict[str, int]:
        """The size of each file by its name. `ls -p` prints /inode/mode/uid/gid/name/size/."""
        lines = run_program("debugfs", "-R", "ls -p /", str(self.path)).decode().splitlines()
        entries = [line.split("/")[1:-1] for line in lines if line.startswith("/")]
        return {name: int(size) for _, mode, _, _, name, size in entries if mode.startswith("10")}

    def read_file(self, name: str) -> bytes:
        return run_program("debugfs", "-R", f"cat /{name}", str(self.path))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
