"""Starting a program that sees only the open files that it is given.

spawner = Spawner(is_sandboxed=True, holds=False)
with spawner.confinement() as confinement:
    name = confinement.show(fd, "disk.qcow2")
    launched = Launch([executable("qemu-nbd", "qemu-utils"), …, name], confinement, Stderr()).start(spawner, deadline)
"""

from cloudmanager.confined.errors import Ended, NoAnswer, Unconfinable
from cloudmanager.confined.launch import Launch, Launched, Stderr
from cloudmanager.confined.limits import Limits
from cloudmanager.confined.process import Process
from cloudmanager.confined.sandbox import Bare, Bubblewrap, Confinement, executable
from cloudmanager.confined.spawner import Spawner, is_privileged

__all__ = [
    "Bare",
    "Bubblewrap",
    "Confinement",
    "Ended",
    "Launch",
    "Launched",
    "Limits",
    "NoAnswer",
    "Process",
    "Spawner",
    "Stderr",
    "Unconfinable",
    "executable",
    "is_privileged",
]
