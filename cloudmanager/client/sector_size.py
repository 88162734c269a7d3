"""The logical sector size that the content of a disk is laid out for: partition tables count in it.

A disk says its own (BLKSSZGET); an image file and most NBD servers say none. What a table or a file system was made for
follows from where it is: a GPT header is in the second sector (UEFI 2.10, 5.3.2), whatever that means in bytes.
"""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from cloudmanager.linux.block import logical_sector_bytes

SMALL, LARGE = 512, 4096
SIZES = (SMALL, LARGE)
"""Of the disks that there are: 512n and 512e, 4Kn."""

Read: TypeAlias = Callable[[int, int], bytes]
"""Bytes at an offset; fewer at the end of the disk, zeros for what is not known yet."""

_GPT = struct.Struct("<8s4sII4xQ")
_GPT_ENTRIES = struct.Struct("<QIII")
_GPT_ENTRIES_OFFSET = 72
_GPT_CRC_OFFSET = 16
_MOST_ENTRIES_BYTES = 1024 * 1024
_MBR_ENTRIES_OFFSET = 446
_MBR_ENTRY = struct.Struct("<B3xB3xII")
_MBR_SIGNATURE = b"\x55\xaa"
_PROTECTIVE = 0xEE
_EXTENDED = (0x05, 0x0F, 0x85)
_BOOT_SECTOR_JUMPS = (0xEB, 0xE9)
_XFS_SECTOR_SIZE = struct.Struct(">H")
_XFS_SECTOR_SIZE_OFFSET = 102
_EXT_SUPERBLOCK, _EXT_MAGIC = 1024, b"\x53\xef"
_EXT_BLOCK_SIZE = struct.Struct("<I")
_EXT_BLOCK_SIZE_OFFSET, _EXT_MAGIC_OFFSET = 24, 56
_EXFAT_SECTOR_SHIFT_OFFSET = 108
_ISO_9660_OFFSET, _ISO_9660 = 32769, b"CD001"
_HEADS: tuple[tuple[int, bytes], ...] = (
    (0, b"XFSB"),
    (0, b"LUKS\xba\xbe"),
    (512, b"LABELONE"),
    (1080, b"\x53\xef"),
    (3, b"NTFS    "),
    (3, b"EXFAT   "),
    (3, b"-FVE-FS-"),
    (4086, b"SWAPSPACE2"),
    (32769, b"CD001"),
    (65600, b"_BHRfS_M"),
)
"""What a partition begins with: where, and which bytes."""


def laid_out_for(read: Read, size_bytes: int | None = None) -> frozenset[int]:
    """The sizes with which the content can be used as it is. Empty: it has no table or file system that tells.

    The size of the whole tells more: partitions lie within it.
    """
    return _gpt(read) or _mbr(read, size_bytes) or _whole_disk(read)


def chosen(read: Read, declared: int | None) -> int:
    """The size with which to read a disk: that of its content's layout, else the one that the disk reports.

    Investigators get disks in a form that their own sector size was lost in: what the content shows is believed.
    """
    sizes = laid_out_for(read)
    if len(sizes) == 1:
        return next(iter(sizes))
    return declared or SMALL


def of_device(descriptor: int) -> int | None:
    """What the kernel says of a block device; None for a file."""
    try:
        return logical_sector_bytes(descriptor)
    except OSError:
        return None


def of_path(path: Path, declared: int | None = None) -> int:
    """With which size a file or block device is to be read. `declared`: what its server reports. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return chosen(lambda offset, length: _some(descriptor, offset, length), declared or of_device(descriptor))
    finally:
        os.close(descriptor)


def _some(descriptor: int, offset: int, length: int) -> bytes:
    """Nothing where the disk is damaged."""
    try:
        return os.pread(descriptor, length, offset)
    except OSError:
        return b""


def _gpt(read: Read) -> frozenset[int]:
    """Where there is more than one header, those that are whole: an old one may be left between the new sectors."""
    found = [size for size in SIZES if _header(read, size) is not None]
    if len(found) > 1:
        found = [size for size in found if _is_whole(read, size)] or found
    return frozenset(found)


def _header(read: Read, sector: int) -> bytes | None:
    """That of a GPT, if it says of itself that it is where it is."""
    header = read(sector, SMALL)
    if len(header) < SMALL:
        return None
    signature, _revision, length, _crc, own_sector = _GPT.unpack_from(header)
    return header[:length] if signature == b"EFI PART" and own_sector == 1 and 92 <= length <= SMALL else None


def _is_whole(read: Read, sector: int) -> bool:
    header = bytearray(_header(read, sector) or b"")
    (crc,) = struct.unpack_from("<I", header, _GPT_CRC_OFFSET)
    struct.pack_into("<I", header, _GPT_CRC_OFFSET, 0)
    first, count, length, entries_crc = _GPT_ENTRIES.unpack_from(header, _GPT_ENTRIES_OFFSET)
    entries_bytes = count * length
    if zlib.crc32(header) != crc or entries_bytes > _MOST_ENTRIES_BYTES:
        return False
    return bool(zlib.crc32(read(first * sector, entries_bytes)) == entries_crc)


def _mbr(read: Read, size_bytes: int | None) -> frozenset[int]:
    """With which size the partitions begin with something, or all fit. A boot sector without partitions has none."""
    boot = read(0, SMALL)
    if boot[510:] != _MBR_SIGNATURE:
        return frozenset()
    entries = [_MBR_ENTRY.unpack_from(boot, _MBR_ENTRIES_OFFSET + 16 * number) for number in range(4)]
    if any(status & 0x7F for status, *_ in entries):  # no table, but the code of a boot sector
        return frozenset()
    parts = [part for _, *part in entries if part[0] not in (0, _PROTECTIVE) and part[1] and part[2]]
    counts = {size: sum(_begins(read, kind, start, size) for kind, start, _ in parts) for size in SIZES}
    best = max(counts.values())
    if best:
        return frozenset(size for size, count in counts.items() if count == best)
    end = max((start + count for _, start, count in parts), default=0)
    fits = frozenset(size for size in SIZES if size_bytes is not None and end * size <= size_bytes)
    return fits if len(fits) == 1 else frozenset()


def _begins(read: Read, kind: int, start: int, sector: int) -> bool:
    """Whether something known begins at that sector."""
    head = read(start * sector, _longest_head())
    if kind in _EXTENDED:
        return head[510:512] == _MBR_SIGNATURE
    if any(head[at : at + len(magic)] == magic for at, magic in _HEADS):
        return True
    return _boot_sector_size(head) is not None


def _longest_head() -> int:
    return max(at + len(magic) for at, magic in _HEADS)


def _whole_disk(read: Read) -> frozenset[int]:
    """Of a file system without a table. One that was made for small sectors is not mounted from large ones."""
    made_for = _boot_sector_size(read(0, SMALL)) or _file_system_size(read)
    if made_for is None:
        return frozenset()
    return frozenset({SMALL}) if made_for < LARGE else frozenset(SIZES)


def _file_system_size(read: Read) -> int | None:
    """The smallest piece that the file system reads by itself; None for what is not known."""
    head, superblock = read(0, SMALL), read(_EXT_SUPERBLOCK, SMALL)
    if head.startswith(b"XFSB"):
        return int(_XFS_SECTOR_SIZE.unpack_from(head, _XFS_SECTOR_SIZE_OFFSET)[0])
    if head[3:11] == b"EXFAT   ":
        return 1 << min(head[_EXFAT_SECTOR_SHIFT_OFFSET], 12)
    if superblock[_EXT_MAGIC_OFFSET:].startswith(_EXT_MAGIC):
        (shift,) = _EXT_BLOCK_SIZE.unpack_from(superblock, _EXT_BLOCK_SIZE_OFFSET)
        return 1024 << min(int(shift), 6)
    if read(_ISO_9660_OFFSET, len(_ISO_9660)) == _ISO_9660:
        return 2048
    return None


def _boot_sector_size(head: bytes) -> int | None:
    """The bytes per sector in the BIOS parameter block of FAT or NTFS; None for anything else."""
    if len(head) < SMALL or head[0] not in _BOOT_SECTOR_JUMPS or head[510:512] != _MBR_SIGNATURE:
        return None
    (size,) = struct.unpack_from("<H", head, 11)
    return size if size in SIZES else None
