"""What the emulated clouds need of this machine: real block devices."""

import os
from pathlib import Path

from cloudmanager.core.errors import SetupError
from cloudmanager.testing.cloud import loop_device

CONTROL = Path("/dev/loop-control")


def require_block_devices() -> None:
    """Raises SetupError, saying what to do."""
    if os.geteuid() != 0:
        raise SetupError(
            "An emulated cloud attaches real block devices (loop devices), which only root can make: run this as root, "
            "with sudo for example."
        )
    if not CONTROL.exists():
        raise SetupError(
            f"There are no loop devices here ({CONTROL} is missing): modprobe loop. A container needs to be privileged."
        )


def loop_devices(directory: Path) -> list[str]:
    """Those whose files are below a directory."""
    below = f"{directory.resolve()}/"
    found = sorted(Path("/sys/block").glob("loop*"))
    return [device.name for device in found if loop_device.backing_file(device).startswith(below)]
