"""Names a file world-wide by what it is, not by its path."""

import fcntl
import os
import struct

from cloudmanager.linux.files import born

_LONG_BYTES = struct.calcsize("l")
_FS_IOC_GETVERSION = 2 << 30 | _LONG_BYTES << 16 | ord("v") << 8 | 1
"""As on every architecture with the generic ioctl encoding; elsewhere the ioctl is unknown and no harm is done."""


def file_id(descriptor: int, machine: str) -> str:
    """The canonical id of an open regular file: machine, file system, inode and inode generation.

    Hard links and symbolic links are one file; a file that replaces another has another inode, or the same one with
    another generation where the file system counts them (ext4, XFS, Btrfs). The file system is named by statvfs's
    f_fsid, and by st_dev where there is none: for ext4 and Btrfs it is made from the UUID and outlives a reboot, for
    XFS from the device's number. Two copies of one ext4 mounted side by side look the same, so their files with
    equal inodes count as one disk.
    """
    status = os.fstat(descriptor)
    filesystem = os.fstatvfs(descriptor).f_fsid or status.st_dev
    return f"image:{machine}:{filesystem:x}:{status.st_ino}:{_generation(descriptor)}"


def file_incarnation(descriptor: int) -> str:
    """What distinguishes an open file from a later one of its name: inode, inode generation, and when it was made.

    Writing into the file changes none of these; a file that replaces it differs in one. A file system that has
    neither generations nor times of birth (NFS before 4.2, some of FUSE) leaves the inode's number, which it may give
    again.
    """
    return f"{os.fstat(descriptor).st_ino}.{_generation(descriptor)}.{born(descriptor)}"


def _generation(descriptor: int) -> int:
    buffer = bytearray(_LONG_BYTES)
    try:
        fcntl.ioctl(descriptor, _FS_IOC_GETVERSION, buffer)
    except OSError:
        return 0  # tmpfs and others: they do not reuse inode numbers soon
    return int(struct.unpack_from("=I", buffer)[0])  # the kernel writes an int, whatever the number says
