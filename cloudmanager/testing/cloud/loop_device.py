"""Loop devices: what gives an emulated disk its block device. Other programs attach and detach theirs at any time."""

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from cloudmanager.linux.block import LOOP_CLR_FD, set_read_only

_TIMEOUT_SECONDS = 30
_IN_USE_AFTER_SECONDS = 1.0


def attach(file: Path, *, read_only: bool = False, part: range | None = None, sector_bytes: int = 512) -> Path:
    """The device with the bytes of `file`, or of a `part` of them, in logical sectors of that size."""
    options = ["--sector-size", str(sector_bytes), *(["--read-only"] if read_only else [])]
    if part is not None:
        options += ["--offset", str(part.start), "--sizelimit", str(len(part))]
    loop = Path(_finished(["losetup", "--find", "--show", *options, str(file)]).strip())
    if not read_only:
        with _opened(loop) as descriptor:
            _set_writable(descriptor)
    return loop


def detach(loop: Path, file: Path) -> bool:
    """False when the device is in use: the kernel then detaches it at the last close, and says nothing.

    A moment is allowed for programs that look at every block device of the machine. A device that has another file by
    now is another program's, and stays as it is.
    """
    with suppress(OSError), _opened(loop) as descriptor:  # an open device is never given to another file
        if backing_file(loop) != str(file.resolve()):
            return True
        _set_writable(descriptor)
        fcntl.ioctl(descriptor, LOOP_CLR_FD)
    deadline = time.monotonic() + _IN_USE_AFTER_SECONDS
    while backing_file(loop) == str(file.resolve()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def detach_all(directory: Path) -> None:
    """Frees the devices whose files are below `directory`: an emulator that was killed left them behind."""
    for entry in Path("/sys/block").glob("loop*"):
        loop = Path("/dev", entry.name)
        file = backing_file(loop)
        if file.startswith(f"{directory.resolve()}/"):
            detach(loop, Path(file))


def backing_file(loop: Path) -> str:
    """Empty when it has none."""
    try:
        return Path("/sys/block", loop.name, "loop/backing_file").read_text().strip().removesuffix(" (deleted)")
    except OSError:
        return ""


def _finished(command: list[str]) -> str:
    """What it prints. It has ended also when a signal interrupts this thread, and makes no device after that."""
    run = partial(subprocess.run, command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    with ThreadPoolExecutor(1, "losetup") as pool:
        pool.submit(int).result()  # a thread whose start is interrupted is not waited for at the end of the pool
        return str(pool.submit(run).result().stdout)


@contextmanager
def _opened(loop: Path) -> Iterator[int]:
    descriptor = os.open(loop, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _set_writable(descriptor: int) -> None:
    """`blockdev --setro` outlives the attachment: without this the device's next user would find it read-only."""
    with suppress(PermissionError):  # attached read-only: that ends with the attachment
        set_read_only(descriptor, False)
