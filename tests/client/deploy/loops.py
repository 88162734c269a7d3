"""Loop devices, which other test processes take as well."""

import os
import subprocess
from pathlib import Path


def attached(file: Path, *options: str) -> str:
    command = ["losetup", "--find", "--show", *options, str(file)]
    for _ in range(20):
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if not answer.returncode:
            return answer.stdout.strip()
    raise AssertionError(answer.stderr)


def detach(device: str) -> None:
    """Its file does not change any more afterwards: while another program looks at the device, the kernel lets go of it
    later, and would write back only then.
    """
    descriptor = os.open(device, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    subprocess.run(["losetup", "--detach", device], check=True)
