"""Small files that are written whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: str) -> None:
    """The file has its old content or the new one, also after a power loss; nobody but its owner may read it.

    The content is on the disk before the name leads to it: some file systems (ext4 after an error, XFS) else show an
    empty file. https://man7.org/linux/man-pages/man2/fsync.2.html: a new name needs its directory's fsync, too.
    Raises OSError.
    """
    unfinished = path.with_suffix(".new")
    with suppress(FileNotFoundError):
        unfinished.unlink()
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
