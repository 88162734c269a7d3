"""Which format an image file has, by its own bytes, and whether it keeps to itself.

An image may name other files or addresses, which QEMU would open for it: a deployment of an image from elsewhere would
then read whatever its author wanted. So QEMU is never left to find the format out, and an image that refers to
anything is refused here, by its headers (docs/interop/qcow2.txt and block/ in QEMU, VMware's Virtual Disk Format 5.0,
Microsoft's VHD specification and [MS-VHDX]).
"""

import re
import struct
from collections.abc import Callable
from typing import TypeAlias

from cloudmanager.client.deploy.errors import DamagedSource, UnsafeSource, UnsupportedSource

SECTOR = 512
RAW = "raw"

Fetch: TypeAlias = Callable[[int, int], bytes]
"""(offset, length) → the bytes there, fewer at the end."""

_QCOW2_VERSIONS = (2, 3)
_QCOW2_DATA_FILE = 1 << 2
_QCOW2_KNOWN = 0b11111
_VMDK_DESCRIPTOR_BYTES = 1 << 20
_VMDK_SELF_CONTAINED = ("monolithicsparse", "streamoptimized")
_VMDK_NO_PARENT = "ffffffff"
_VHD_FIXED, _VHD_DYNAMIC = 2, 3
_VHD_COOKIE = b"conectix"
_FLATTEN = "Make it self-contained with `qemu-img convert -O qcow2` where it came from."


def detect(fetch: Fetch, size_bytes: int) -> str:
    """QEMU's name of the format; everything unknown is raw. Raises UnsafeSource, UnsupportedSource, DamagedSource."""
    head = fetch(0, SECTOR)
    for matches, name, check in _CONTAINERS:
        if matches(head):
            check(head, fetch)
            return name
    if size_bytes >= SECTOR and _is_fixed_vhd(fetch(size_bytes - SECTOR, SECTOR), size_bytes):
        return "vpc"
    return RAW


def is_container(head: bytes) -> bool:
    """Whether the first sector is that of an image format."""
    return any(matches(head) for matches, _name, _check in _CONTAINERS)


def _check_qcow2(head: bytes, _fetch: Fetch) -> None:
    version, backing_offset, _length = _unpack(">4xIQI", head)
    encryption = _unpack(">32xI", head)[0]
    if version not in _QCOW2_VERSIONS or encryption:
        raise UnsupportedSource("The image is encrypted, or its version is old. Convert it with `qemu-img convert`.")
    features = _unpack(">72xQ", head)[0] if version == 3 else 0
    if backing_offset:
        raise UnsafeSource(f"The image reads through another file (a backing file). {_FLATTEN}")
    if features & _QCOW2_DATA_FILE or features & ~_QCOW2_KNOWN:
        raise UnsafeSource(f"The image keeps its data in another file, or in a way that is not known. {_FLATTEN}")


def _check_vmdk(head: bytes, fetch: Fetch) -> None:
    sector, sectors = _unpack("<28xQQ", head)
    length = min(sectors * SECTOR, _VMDK_DESCRIPTOR_BYTES)
    text = fetch(sector * SECTOR, length).split(b"\0")[0].decode("latin-1").lower()
    kind = re.search(r'^\s*createtype\s*=\s*"([^"]*)"', text, re.MULTILINE)
    parent = re.search(r"^\s*parentcid\s*=\s*([0-9a-f]+)", text, re.MULTILINE)
    if parent and parent[1] != _VMDK_NO_PARENT:
        raise UnsafeSource(f"The image is a difference to a parent image. {_FLATTEN}")
    if kind is None or kind[1] not in _VMDK_SELF_CONTAINED:
        raise UnsafeSource(f"The VMDK may name other files: it is not monolithicSparse or streamOptimized. {_FLATTEN}")
    extents = re.findall(r"^\s*(?:rw|rdonly|noaccess)\s+\d+\s+(\w+)", text, re.MULTILINE)
    if extents != ["sparse"]:
        raise UnsafeSource(f"The VMDK names other files for its data. {_FLATTEN}")


def _refuse_vmdk_descriptor(_head: bytes, _fetch: Fetch) -> None:
    raise UnsafeSource(f"This is a VMDK descriptor: the data is in other files that it names. {_FLATTEN}")


def _check_vhd(head: bytes, _fetch: Fetch) -> None:
    (kind,) = _unpack(">60xI", head)
    if kind != _VHD_DYNAMIC:
        raise UnsafeSource(f"The image is a difference to a parent VHD, or of an unknown type. {_FLATTEN}")


def _check_vdi(head: bytes, _fetch: Fetch) -> None:
    if head[440:472].strip(b"\0"):
        raise UnsafeSource("The image is a difference to a parent VDI. Merge them in VirtualBox.")


def _no_more(_head: bytes, _fetch: Fetch) -> None:
    """QEMU itself refuses a VHDX with a parent."""


def _refuse(_head: bytes, _fetch: Fetch) -> None:
    raise UnsupportedSource("This image format is not read here. Convert the image with `qemu-img convert -O qcow2`.")


def _is_fixed_vhd(footer: bytes, size_bytes: int) -> bool:
    if not footer.startswith(_VHD_COOKIE):
        return False
    current_size, kind, checksum = struct.unpack_from(">48xQ4xII", footer)
    given = footer[64:68]
    is_intact = checksum == ~(sum(footer) - sum(given)) & 0xFFFFFFFF
    return bool(is_intact and kind == _VHD_FIXED and 0 < current_size <= size_bytes - SECTOR)


def _starts(magic: bytes, at: int = 0) -> Callable[[bytes], bool]:
    return lambda head: head[at:].startswith(magic)


def _is_vmdk_descriptor(head: bytes) -> bool:
    return head.lstrip().lower().startswith(b"# disk descriptorfile")


def _unpack(layout: str, head: bytes) -> tuple[int, ...]:
    try:
        return struct.unpack_from(layout, head)
    except struct.error:
        raise DamagedSource("The image ends within its header. Copy it again from where it came.") from None


_CONTAINERS: tuple[tuple[Callable[[bytes], bool], str, Callable[[bytes, Fetch], None]], ...] = (
    (_starts(b"QFI\xfb"), "qcow2", _check_qcow2),
    (_starts(b"KDMV"), "vmdk", _check_vmdk),
    (_is_vmdk_descriptor, "vmdk", _refuse_vmdk_descriptor),
    (_starts(b"COWD"), "vmdk", _refuse),
    (_starts(b"QED\0"), "qed", _refuse),
    (_starts(b"vhdxfile"), "vhdx", _no_more),
    (_starts(_VHD_COOKIE), "vpc", _check_vhd),
    (_starts(b"\x7f\x10\xda\xbe", 64), "vdi", _check_vdi),
    (_starts(b"WithoutFreeSpace"), "parallels", _refuse),
    (_starts(b"WithouFreSpacExt"), "parallels", _refuse),
)
