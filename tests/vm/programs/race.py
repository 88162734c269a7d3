"""Connects several disks at the same moment, and reads them."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

from cloudmanager.client import CloudManager
from tests.vm.programs.conversation import receive, say

NAMES = ("small-0.raw", "small-1.raw", "small-2.raw", "small-3.raw")
together = threading.Barrier(len(NAMES), timeout=100)


def read(manager: CloudManager, name: str) -> tuple[str, str]:
    """The device, and the digest of what it has."""
    with manager.export(f"local:{name}") as disk:
        together.wait()
        with disk.device() as device:
            together.wait()
            digest = hashlib.sha256(device.path.read_bytes()).hexdigest()
            together.wait()
            return str(device.path), digest


with CloudManager() as service, ThreadPoolExecutor(len(NAMES)) as threads:
    found = threads.map(lambda name: read(service, name), NAMES)
    say(found=dict(zip(NAMES, found, strict=True)))
receive()
