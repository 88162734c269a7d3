"""Mounts both file systems of a disk that it may write to."""

from pathlib import Path

from cloudmanager.client import CloudManager
from cloudmanager.client.access_methods import AccessMethod
from tests.vm.programs.conversation import receive, say

with CloudManager().export("local:written.raw", "read-write") as disk:
    for part in ("1", "2"):
        with disk.mount(part=part, method=AccessMethod.DEVICE) as mounted:
            mounts = map(str.split, Path("/proc/mounts").read_text().splitlines())
            source, _, kind, options, _, _ = next(fields for fields in mounts if fields[1] == str(mounted.path))
            greeting = (mounted.path / "greeting").read_text()
            say(source=source, type=kind, options=options.split(","), greeting=greeting)
    receive()
