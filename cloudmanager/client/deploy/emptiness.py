"""Whether a target holds something that somebody may want to keep."""

from collections.abc import Iterator

from cloudmanager.transfer.buffers import Buffer, is_zero
from cloudmanager.transfer.extents import Extent, pieces
from cloudmanager.transfer.reading import Reader

EDGE_BYTES = 1024 * 1024
"""Partition tables, the headers of file systems, of RAID, LVM and LUKS, and the copies that are kept at the end."""

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"LUKS\xba\xbe", "LUKS encryption"),
    (0, b"XFSB", "an XFS file system"),
    (536, b"LVM2", "an LVM physical volume"),
    (1080, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (4086, b"SWAPSPACE2", "swap space"),
    (3, b"NTFS", "an NTFS file system"),
    (32769, b"CD001", "an ISO 9660 file system"),
    (65600, b"_BHRfS_M", "a btrfs file system"),
    (510, b"\x55\xaa", "a boot sector or partition table"),
)


def content_of(reader: Reader, size_bytes: int) -> str | None:
    """What there is in the first and the last MiB; None if all of it is zero. Nothing in between is looked at."""
    head = Extent(0, min(EDGE_BYTES, size_bytes))
    tail = Extent(max(head.end, size_bytes - EDGE_BYTES), min(EDGE_BYTES, size_bytes - head.end))
    for extent in (head, tail):
        for piece, buffer in _data(reader, extent):
            if not is_zero(buffer.address, piece.length):
                return _named(buffer, piece) if piece.offset == 0 else f"data (bytes {piece.offset} to {piece.end})"
    return None


def _data(reader: Reader, extent: Extent) -> Iterator[tuple[Extent, Buffer]]:
    buffer = Buffer()
    for known in reader.extents(extent) if extent.length > 0 else ():
        for piece in pieces(known) if not known.is_zero else ():
            reader.begin(buffer, piece)
            reader.finish(buffer)
            yield piece, buffer


def _named(buffer: Buffer, piece: Extent) -> str:
    start = bytes(buffer.view[: piece.length])
    for at, magic, name in _SIGNATURES:
        if start.startswith(magic, at):
            return name
    return f"data (bytes 0 to {piece.end})"
