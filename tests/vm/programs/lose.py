"""Reads from a device whose server is gone, as often as it is told to."""

from pathlib import Path

from cloudmanager.client import CloudManager
from cloudmanager.client.access_methods.errors import AccessLost
from tests.vm.programs.conversation import receive, say


def failure(path: Path) -> int | None:
    """The number of the error that reading ends with. None: it does not fail."""
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno
    return None


with CloudManager().export("local:small-0.raw") as disk:
    try:
        with disk.device() as device:
            say(export=disk.id, path=str(device.path))
            while receive():
                say(errno=failure(device.path))
    except AccessLost as lost:
        say(lost=lost.detail)
    receive()
