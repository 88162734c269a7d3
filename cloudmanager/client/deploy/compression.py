"""Compressed streams, known by their first bytes, and the programs that read them.

The programs run beside ours, on another processor, and are the ones that people know; each refuses a stream that was
cut off.
"""

import shutil
from dataclasses import dataclass

from cloudmanager.client.deploy.errors import MissingTool

LONGEST_MAGIC = 9


@dataclass(frozen=True)
class Compression:
    """A format of compressed streams."""

    name: str
    magic: bytes
    command: tuple[str, ...]
    package: str

    def program(self) -> tuple[str, ...]:
        """The command, from standard input to standard output. Raises MissingTool."""
        if shutil.which(self.command[0]) is None:
            raise MissingTool(f"The image is compressed with {self.name}: install the package {self.package}.")
        return self.command


_ALL = (
    Compression("gzip", b"\x1f\x8b", ("gzip", "-dc"), "gzip"),
    Compression("xz", b"\xfd7zXZ\0", ("xz", "-dc", "-T0"), "xz-utils"),
    Compression("zstd", b"\x28\xb5\x2f\xfd", ("zstd", "-dcq"), "zstd"),
    Compression("lzop", b"\x89LZO\0\r\n\x1a\n", ("lzop", "-dc"), "lzop"),
)


def detect(head: bytes) -> Compression | None:
    return next((compression for compression in _ALL if head.startswith(compression.magic)), None)
