"""Loop devices, which other programs attach and detach at the same time."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def loop_device(file: Path, *options: str) -> Iterator[Path]:
    """A block device with the content of the file until the block ends."""
    device = attached(file, *options)
    try:
        yield device
    finally:
        detach(device)


def attached(file: Path, *options: str) -> Path:
    command = ["losetup", "--find", "--show", *options, str(file)]
    for _ in range(20):  # another process may take the free device between the look and the attachment
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if not answer.returncode:
            return Path(answer.stdout.strip())
    raise AssertionError(answer.stderr)


def detach(device: Path) -> None:
    """Its file does not change any more afterwards: while another program looks at the device, the kernel lets go of it
    later, and would write back only then.
    """
    with suppress(OSError):  # a disk with bad sectors
        descriptor = os.open(device, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    subprocess.run(["losetup", "--detach", device], check=True)
