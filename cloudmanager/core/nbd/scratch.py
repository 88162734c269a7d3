"""The overlay that takes the writes of a scratch export: an empty qcow2 image.

It is written here rather than by `qemu-img create`, which takes 20 ms where this takes a tenth of one.
https://www.qemu.org/docs/master/interop/qcow2.html
"""

import struct
from pathlib import Path

from cloudmanager.linux.block import whole_sectors
from cloudmanager.linux.files import replacing

_CLUSTER_BITS = 16
_CLUSTER_SIZE = 1 << _CLUSTER_BITS
_BYTES_PER_L1_ENTRY = _CLUSTER_SIZE * _CLUSTER_SIZE // 8
"""An L1 entry refers to a cluster of L2 entries, of which each refers to a cluster of data."""
_HEADER = struct.Struct(">4sI QI IQ II QQ I IQ QQQ II")
_REFCOUNT_TABLE_CLUSTER = 1
_REFCOUNT_BLOCK_CLUSTER = 2
_L1_CLUSTER = 3


def create_overlay(path: Path, size_bytes: int) -> None:
    """Makes an empty overlay, whole or not at all. What it covers is named by the block graph, not in the file."""
    with replacing(path, is_durable=False) as file:
        for offset, content in _metadata(size_bytes):
            file.seek(offset)
            file.write(content)
        file.truncate((_L1_CLUSTER + _l1_clusters(size_bytes)) * _CLUSTER_SIZE)


def fits(path: Path, size_bytes: int) -> bool:
    """Whether an overlay was made for a disk of this size."""
    with path.open("rb") as file:
        return file.read(_HEADER.size) == _header(size_bytes)[: _HEADER.size]


def _metadata(size_bytes: int) -> list[tuple[int, bytes]]:
    clusters = _L1_CLUSTER + _l1_clusters(size_bytes)
    return [
        (0, _header(size_bytes)),
        (_REFCOUNT_TABLE_CLUSTER * _CLUSTER_SIZE, struct.pack(">Q", _REFCOUNT_BLOCK_CLUSTER * _CLUSTER_SIZE)),
        (_REFCOUNT_BLOCK_CLUSTER * _CLUSTER_SIZE, struct.pack(">H", 1) * clusters),
    ]


def _header(size_bytes: int) -> bytes:
    header = _HEADER.pack(
        *(b"QFI\xfb", 3),
        *(0, 0),  # no backing file is named
        *(_CLUSTER_BITS, whole_sectors(size_bytes)),
        *(0, _l1_entries(size_bytes)),  # not encrypted
        *(_L1_CLUSTER * _CLUSTER_SIZE, _REFCOUNT_TABLE_CLUSTER * _CLUSTER_SIZE),
        1,  # clusters of the refcount table
        *(0, 0),  # no snapshots
        *(0, 0, 0),  # no feature bits
        *(4, _HEADER.size),  # refcounts of 2**4 bits
    )
    return header + bytes(8)  # the end of the header extensions


def _l1_entries(size_bytes: int) -> int:
    return max(1, -(-size_bytes // _BYTES_PER_L1_ENTRY))


def _l1_clusters(size_bytes: int) -> int:
    return -(-_l1_entries(size_bytes) * 8 // _CLUSTER_SIZE)
