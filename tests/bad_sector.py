"""A disk with a bad sector: a file, on a file system of its own, of which a range cannot be read."""

import errno
import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.libnbd import Address, Connection, LibnbdFailure, Timeouts

_PREAD = (
    'if [ "$4" -lt {end} ] && [ $(($4 + $3)) -gt {start} ]; then echo "EIO a bad sector" >&2; exit 1; fi; '
    "dd if={image} iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64K status=none"
)
_PWRITE = "pwrite=dd of={image} oflag=seek_bytes seek=$4 bs=64K conv=notrunc status=none"
_SECONDS = 20


@contextmanager
def damaged(image: Path, directory: Path, start: int, length: int, *, is_writable: bool = False) -> Iterator[Path]:
    """The image as another file, which has the same bytes but for a range that gives EIO."""
    mounted = directory / "damaged"
    mounted.mkdir()
    pread = _PREAD.format(start=start, end=start + length, image=image)
    server = ["nbdkit", "--single", "eval", f"get_size=echo {image.stat().st_size}", f"pread={pread}"]
    server += [_PWRITE.format(image=image)] if is_writable else []
    pid_file = directory / "nbdfuse.pid"
    os.mkfifo(pid_file)
    fifo = os.open(pid_file, os.O_RDONLY | os.O_NONBLOCK)
    access = [] if is_writable else ["--readonly"]
    command = ["nbdfuse", *access, "--pidfile", str(pid_file), str(mounted / "disk"), "--command", *server]
    try:
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                poll = select.poll()
                poll.register(fifo, select.POLLIN)
                assert poll.poll(_SECONDS * 1000), "nbdfuse does not mount"
                yield mounted / "disk"
            finally:
                subprocess.run(["umount", "--lazy", mounted], check=False)
                process.terminate()
                process.wait(_SECONDS)
    finally:
        os.close(fifo)


def read_around(address: Address, content: bytes, bad: int, *, in_one_piece: bool) -> None:
    """One connection reads the bad sector, gets its error, and goes on: twice.

    `in_one_piece`: it asks for that, as our own clients do, and not for what other programs built on libnbd ask for.
    """
    piece = 64 * 1024
    with Connection(address, Timeouts()) as connection:
        if not in_one_piece:
            connection._read_flags = 0
        buffer = Buffer()
        for _ in range(2):
            with pytest.raises(LibnbdFailure) as caught:
                connection.wait(connection.start_read(buffer.address, piece, bad))
            assert caught.value.errno == errno.EIO
            assert sum(extent.length for extent in connection.extents(0, len(content))) == len(content)
            for offset in (0, bad - piece, bad + piece, len(content) - piece):
                connection.wait(connection.start_read(buffer.address, piece, offset))
                assert bytes(buffer.view[:piece]) == content[offset : offset + piece]
