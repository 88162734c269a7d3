"""Connects a device that may be written to, and leaves it to others."""

from cloudmanager.client import CloudManager
from tests.vm.programs.conversation import receive, say

with CloudManager().export("local:replayed.raw", "read-write") as disk, disk.device() as device:
    say(partitions=[str(path) for path in device.partitions.values()])
    receive()
