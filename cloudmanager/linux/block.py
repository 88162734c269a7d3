"""Block devices: the sector that the kernel counts in, and the ioctls of linux/fs.h and linux/loop.h."""

import fcntl
import sys

SECTOR_BYTES = 512
"""sysfs, partition tables and image formats count in these, whatever the logical sectors of a device are."""

BLKROSET = 0x125D
BLKROGET = 0x125E
BLKRRPART = 0x125F
BLKGETSIZE = 0x1260
BLKFLSBUF = 0x1261
BLKRASET = 0x1262
BLKSECTGET = 0x1267
BLKSSZGET = 0x1268
BLKGETSIZE64 = 0x80081272
BLKDISCARD = 0x1277
BLKIOMIN = 0x1278
BLKIOOPT = 0x1279
BLKPBSZGET = 0x127B
BLKDISCARDZEROES = 0x127C
BLKROTATIONAL = 0x127E
BLKZEROOUT = 0x127F

LOOP_CLR_FD = 0x4C01
LOOP_GET_STATUS64 = 0x4C05

_INT_BYTES = 4


def whole_sectors(size_bytes: int) -> int:
    """The size rounded up to whole sectors."""
    return -(-size_bytes // SECTOR_BYTES) * SECTOR_BYTES


def is_read_only(descriptor: int) -> bool:
    """Whether the kernel refuses writes to the device. Raises OSError."""
    return bool(_integer(descriptor, BLKROGET))


def set_read_only(descriptor: int, read_only: bool) -> None:
    """Raises OSError."""
    fcntl.ioctl(descriptor, BLKROSET, int(read_only).to_bytes(_INT_BYTES, sys.byteorder))


def drop_buffers(descriptor: int) -> None:
    """Writes back what the kernel has cached of the device, and forgets it. Raises OSError."""
    fcntl.ioctl(descriptor, BLKFLSBUF, 0)


def reread_partitions(descriptor: int) -> None:
    """Raises OSError, EBUSY while a partition is in use."""
    fcntl.ioctl(descriptor, BLKRRPART)


def logical_sector_bytes(descriptor: int) -> int:
    """Raises OSError, also for what is no block device."""
    return _integer(descriptor, BLKSSZGET)


def _integer(descriptor: int, request: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, request, bytes(_INT_BYTES)), sys.byteorder)
