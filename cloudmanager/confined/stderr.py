"""What a program says on its standard error."""

import fcntl
import os

_LIMIT_BYTES = 64 * 1024
_F_ADD_SEALS = 1033
_F_SEAL_SHRINK, _F_SEAL_GROW = 0x2, 0x4


class Stderr:
    """A file that takes a program's output, and is full after 64 KiB.

    It lives in memory and is sealed against growth: each malformed client makes qemu-nbd print a line, for as long as
    it serves, with or without a daemon. A pipe that nobody reads would block it, a file would fill the disk.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, _LIMIT_BYTES)
        fcntl.fcntl(self.fd, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW)

    def read(self) -> str:
        """From the beginning."""
        return os.pread(self.fd, _LIMIT_BYTES, 0).rstrip(b"\0").decode(errors="replace")

    def clear(self) -> None:
        """Forgets what an attempt has said that is made again."""
        os.pwrite(self.fd, bytes(os.lseek(self.fd, 0, os.SEEK_CUR)), 0)
        os.lseek(self.fd, 0, os.SEEK_SET)

    def close(self) -> None:
        os.close(self.fd)
