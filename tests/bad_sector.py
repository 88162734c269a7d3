"""A disk with a bad sector: a file, on a file system of its own, of which a range cannot be read."""

import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREAD = (
    'if [ "$4" -lt {end} ] && [ $(($4 + $3)) -gt {start} ]; then echo "EIO a bad sector" >&2; exit 1; fi; '
    "dd if={image} iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64K status=none"
)
_SECONDS = 20


@contextmanager
def damaged(image: Path, directory: Path, start: int, length: int) -> Iterator[Path]:
    """The image as another file, which has the same bytes but for a range that gives EIO."""
    mounted = directory / "damaged"
    mounted.mkdir()
    pread = _PREAD.format(start=start, end=start + length, image=image)
    server = ["nbdkit", "--single", "eval", f"get_size=echo {image.stat().st_size}", f"pread={pread}"]
    pid_file = directory / "nbdfuse.pid"
    os.mkfifo(pid_file)
    fifo = os.open(pid_file, os.O_RDONLY | os.O_NONBLOCK)
    command = ["nbdfuse", "--readonly", "--pidfile", pid_file, mounted / "disk", "--command", *server]
    try:
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                poll = select.poll()
                poll.register(fifo, select.POLLIN)
                assert poll.poll(_SECONDS * 1000), "nbdfuse does not mount"
                yield mounted / "disk"
            finally:
                subprocess.run(["umount", "--lazy", mounted / "disk"], check=False)
                process.terminate()
                process.wait(_SECONDS)
    finally:
        os.close(fifo)
