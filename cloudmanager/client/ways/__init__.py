"""From an NBD address to bytes that a program can read. Each way is a context manager that undoes everything.

device   /dev/nbdN: the kernel is the client      root, the module nbd
file     an ordinary file, by nbdfuse             /dev/fuse
stub     a qcow2 image that refers to the address nothing
mount    a file system of the disk, read-only     root, and the device or the file
"""

from cloudmanager.client.ways.choice import Choice, Way, choose, open_disk
from cloudmanager.client.ways.fuse_file import DiskFile, file
from cloudmanager.client.ways.kernel_device import DiskDevice, device
from cloudmanager.client.ways.layout import Content, Layout, Part, read_layout
from cloudmanager.client.ways.mounting import MountedDisk, mount
from cloudmanager.client.ways.qcow2_stub import Stub, stub
from cloudmanager.client.ways.record import Outcome, cleanup

__all__ = [
    "Choice",
    "Content",
    "DiskDevice",
    "DiskFile",
    "Layout",
    "MountedDisk",
    "Outcome",
    "Part",
    "Stub",
    "Way",
    "choose",
    "cleanup",
    "device",
    "file",
    "mount",
    "open_disk",
    "read_layout",
    "stub",
]
