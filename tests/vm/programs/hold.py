"""Keeps a device connected, and says how its export is whenever it is asked."""

import os

from cloudmanager.client import CloudManager
from tests.vm.programs.conversation import receive, say

with CloudManager().export(os.environ["DISK"], ttl_seconds=120, look_seconds=1) as disk:
    with disk.device() as device:
        starts = {str(path): start for start, path in device.partitions.items()}
        say(path=str(device.path), size=device.size_bytes, writable=device.is_writable, starts=starts, uri=disk.uri)
        while receive():
            lost = disk.lost and disk.lost.detail
            say(lost=lost, disconnected=device.is_lost, expires=disk.expires_at.isoformat())
