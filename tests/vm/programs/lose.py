"""Reads from a device whose server is gone."""

from cloudmanager.client import CloudManager
from cloudmanager.client.ways.errors import WayLost
from tests.vm.programs.conversation import hear, say

with CloudManager().export("local:small-0.raw") as disk:
    try:
        with disk.device() as device:
            say(export=disk.id, path=str(device.path))
            hear()
            try:
                device.path.read_bytes()
            except OSError as error:
                say(errno=error.errno)
    except WayLost as lost:
        say(lost=lost.detail)
    hear()
