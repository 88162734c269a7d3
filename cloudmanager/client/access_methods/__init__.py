"""From an NBD address to bytes that a program can read. Each access method is a context manager that undoes everything.

device   /dev/nbdN: the kernel is the client      root, the module nbd
file     an ordinary file, by nbdfuse             /dev/fuse
stub     a qcow2 image that refers to the address nothing
mount    a file system of the disk, read-only     root, and the device or the file

Names are loaded when they are first used: a program that only records an export for `cleanup` needs few of them.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudmanager.client.access_methods.choice import Choice as Choice
    from cloudmanager.client.access_methods.choice import choose as choose
    from cloudmanager.client.access_methods.choice import open_disk as open_disk
    from cloudmanager.client.access_methods.errors import AccessMethod as AccessMethod
    from cloudmanager.client.access_methods.errors import Outcome as Outcome
    from cloudmanager.client.access_methods.fuse_file import DiskFile as DiskFile
    from cloudmanager.client.access_methods.fuse_file import file as file
    from cloudmanager.client.access_methods.kernel_device import DiskDevice as DiskDevice
    from cloudmanager.client.access_methods.kernel_device import device as device
    from cloudmanager.client.access_methods.layout import Content as Content
    from cloudmanager.client.access_methods.layout import Layout as Layout
    from cloudmanager.client.access_methods.layout import Part as Part
    from cloudmanager.client.access_methods.layout import read_layout as read_layout
    from cloudmanager.client.access_methods.mounting import MountedDisk as MountedDisk
    from cloudmanager.client.access_methods.mounting import mount as mount
    from cloudmanager.client.access_methods.qcow2_stub import Stub as Stub
    from cloudmanager.client.access_methods.qcow2_stub import stub as stub
    from cloudmanager.client.access_methods.record import cleanup as cleanup

_HOMES = {
    "choice": ("Choice", "choose", "open_disk"),
    "errors": ("AccessMethod", "Outcome"),
    "fuse_file": ("DiskFile", "file"),
    "kernel_device": ("DiskDevice", "device"),
    "layout": ("Content", "Layout", "Part", "read_layout"),
    "mounting": ("MountedDisk", "mount"),
    "qcow2_stub": ("Stub", "stub"),
    "record": ("cleanup",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - made from the table above


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"cloudmanager.client.access_methods.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
