"""The programs that read compressed streams.

They run beside ours, on another processor, and are the ones that people know; each refuses a stream that was cut off or
whose checksum is wrong.
"""

import shutil
from dataclasses import dataclass

from cloudmanager.client.deploy.errors import MissingTool


@dataclass(frozen=True)
class Compression:
    """A format of compressed streams."""

    name: str
    """As `cloudmanager.images` calls it."""
    command: tuple[str, ...]
    package: str

    def program(self) -> tuple[str, ...]:
        """The command, from standard input to standard output. Raises MissingTool."""
        if shutil.which(self.command[0]) is None:
            raise MissingTool(f"The image is compressed with {self.name}: install the package {self.package}.")
        return self.command


_ALL = (
    Compression("gzip", ("gzip", "-dc"), "gzip"),
    Compression("compress", ("gzip", "-dc"), "gzip"),
    Compression("bzip2", ("bzip2", "-dc"), "bzip2"),
    Compression("xz", ("xz", "-dc", "-T0"), "xz-utils"),
    Compression("lzma", ("xz", "-dc", "--format=lzma"), "xz-utils"),
    Compression("lzip", ("xz", "-dc", "--format=lzip"), "xz-utils"),
    Compression("zstd", ("zstd", "-dcq"), "zstd"),
    Compression("lz4", ("lz4", "-dcq"), "lz4"),
    Compression("lzop", ("lzop", "-dc"), "lzop"),
)


def compression_of(name: str) -> Compression | None:
    """None for what is not compressed, or by what nothing here reads."""
    return next((each for each in _ALL if each.name == name), None)
