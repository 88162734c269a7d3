"""Has a device and a mounted file system, and does not live to give them back."""

from cloudmanager.client import CloudManager
from cloudmanager.client.access_methods import AccessMethod
from tests.vm.programs.conversation import receive, say

with CloudManager().export("local:evidence.raw") as disk:
    with disk.device() as device, disk.mount(part="1", method=AccessMethod.DEVICE) as mounted:
        say(export=disk.id, device=str(device.path), files=str(mounted.path))
        receive()
