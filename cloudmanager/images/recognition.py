"""What a file is by its first bytes: an image format, or something that is no disk at all.

A raw disk has no mark of its own, so everything that is not known here is one. A mark of two bytes would also be that
of one encrypted volume in 65,536: nothing here is known by fewer than three, or something else about it must be right.
Marks are those of the formats' specifications, or of the file(1) command's database where there is none.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from cloudmanager.linux.block import SECTOR_BYTES

HEAD_BYTES = 4096
"""As many of a file's first bytes as `recognise` looks at."""
_SKIPPABLE_FRAME = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
_TEXT = re.compile(rb"[\t\n\f\r\x1b -\xff]*")


class ContentGroup(Enum):
    """What can be done about a file that is no raw disk."""

    IMAGE = "an image format"
    COMPRESSED = "one compressed stream"
    ARCHIVE = "holds files, perhaps disks"
    EVIDENCE = "a forensic container"
    OTHER = "no disk in any form"


@dataclass(frozen=True)
class FileKind:
    """A kind of file."""

    name: str
    """Short, for programs: gzip, tar, ova, ewf, qcow2…"""
    description: str
    """For people, with an article: "a gzip file"."""
    group: ContentGroup


def recognise(head: bytes, size_bytes: int | None = None) -> FileKind | None:
    """The kind of a file whose first HEAD_BYTES, or all that there are, are `head`; None for a raw disk.

    Without its size a text, which differs from a disk only in not having whole sectors, is not recognised.
    """
    return _image(head) or _marked(head) or _structured(head) or _document(head, size_bytes)


def _image(head: bytes) -> FileKind | None:
    """Where two could match, the mark at the start wins."""
    if head.lstrip().lower().startswith(b"# disk descriptorfile"):
        return FileKind("vmdk-descriptor", "a VMDK descriptor", ContentGroup.IMAGE)
    return _first(head, ContentGroup.IMAGE, _IMAGES)


def _marked(head: bytes) -> FileKind | None:
    return next(filter(None, (_first(head, group, rows) for group, rows in _MARKS.items())), None)


def _first(head: bytes, group: ContentGroup, rows: "_Rows") -> FileKind | None:
    return next(
        (FileKind(name, description, group) for at, mark, name, description in rows if head[at:].startswith(mark)), None
    )


def _structured(head: bytes) -> FileKind | None:
    """Kinds that have no mark, or a weak one, but a structure that must be right."""
    return next(filter(None, (kind(head) for kind in (_skippable, _zip, _tar, _lzma, _compress, _zlib))), None)


def _skippable(head: bytes) -> FileKind | None:
    """Zstandard and LZ4 share these frames; pzstd begins with one (RFC 8878, 3.1.2)."""
    if not _SKIPPABLE_FRAME.match(head):
        return None
    at = 0
    while _SKIPPABLE_FRAME.match(head, at) and at + 8 <= len(head):
        at += 8 + int(struct.unpack_from("<I", head, at + 4)[0])
    if head[at:].startswith(b"\x04\x22\x4d\x18"):
        return FileKind("lz4", "an lz4 file", ContentGroup.COMPRESSED)
    return FileKind("zstd", "a zstd file", ContentGroup.COMPRESSED)


def _zip(head: bytes) -> FileKind | None:
    if not head.startswith(b"PK\x03\x04"):
        return None
    if b"aff4" in head.lower() or b"container.description" in head:
        return FileKind("aff4", "an AFF4 container", ContentGroup.EVIDENCE)
    return FileKind("zip", "a zip archive", ContentGroup.ARCHIVE)


def _tar(head: bytes) -> FileKind | None:
    """By the checksum of the first member's header, which the oldest kind has too (POSIX, ustar interchange format)."""
    header = head[:SECTOR_BYTES]
    given = re.fullmatch(rb"[ \0]*([0-7]+)[ \0]*", header[148:156])
    if len(header) < SECTOR_BYTES or not header[0] or given is None:
        return None
    if int(given[1], 8) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        return None
    is_appliance = header[:100].split(b"\0")[0].lower().endswith(b".ovf")
    return FileKind(*(("ova", "an OVA") if is_appliance else ("tar", "a tar archive")), ContentGroup.ARCHIVE)


def _lzma(head: bytes) -> FileKind | None:
    """As xz(1) recognises one: the properties, a dictionary of 2^n or 3 * 2^n bytes, a size that is known or not."""
    if len(head) < 14 or head[0] >= 9 * 5 * 5:
        return None
    dictionary, size = struct.unpack_from("<IQ", head, 1)
    lowest = dictionary & -dictionary
    is_usual = dictionary >= 4096 and dictionary in (lowest, lowest * 3)
    is_sized = size == (1 << 64) - 1 or 0 < size < 1 << 38
    return FileKind("lzma", "an lzma file", ContentGroup.COMPRESSED) if is_usual and is_sized and not head[13] else None


def _compress(head: bytes) -> FileKind | None:
    is_it = len(head) > 2 and head.startswith(b"\x1f\x9d") and not head[2] & 0x60 and 9 <= head[2] & 0x1F <= 16
    return FileKind("compress", "a file of compress(1)", ContentGroup.COMPRESSED) if is_it else None


def _zlib(head: bytes) -> FileKind | None:
    """Two bytes that say so are not enough: what follows must come out of it."""
    if head[:2] not in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"):
        return None
    try:
        is_it = len(zlib.decompressobj().decompress(head)) >= SECTOR_BYTES
    except zlib.error:
        return None
    return (
        FileKind("zlib", "a zlib stream, as a dmg has it whose end is missing", ContentGroup.COMPRESSED)
        if is_it
        else None
    )


def _document(head: bytes, size_bytes: int | None) -> FileKind | None:
    if len(head) < HEAD_BYTES:
        size_bytes = len(head)
    if size_bytes is not None and size_bytes % SECTOR_BYTES and is_text(head):
        return FileKind("text", "a text", ContentGroup.OTHER)
    if size_bytes is not None and 0 < size_bytes < SECTOR_BYTES:
        return FileKind("fragment", "smaller than one sector", ContentGroup.OTHER)
    if head[510:512] == b"\x55\xaa":
        return None  # a boot sector: some begin like a program
    (pe_at,) = struct.unpack_from("<I", head, 60) if head.startswith(b"MZ") and len(head) >= 64 else (0,)
    if pe_at and head[pe_at:].startswith(b"PE\0\0"):
        return FileKind("program", "a Windows program", ContentGroup.OTHER)
    for at, mark, description in _DOCUMENTS:
        if head[at:].startswith(mark):
            return FileKind("document", description, ContentGroup.OTHER)
    return None


def is_text(head: bytes) -> bool:
    """Whether there is nothing but UTF-8 or UTF-16 text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _decodes(head[: len(head) // 2 * 2], "utf-16")
    return bool(_TEXT.fullmatch(head)) and _decodes(head, "utf-8")


def _decodes(head: bytes, encoding: str) -> bool:
    """A character that is cut off at the end is no fault."""
    try:
        head.decode(encoding)
    except UnicodeDecodeError as error:
        return error.end >= len(head) - 3 and error.reason == "unexpected end of data"
    return True


_Rows: TypeAlias = tuple[tuple[int, bytes, str, str], ...]
"""Offset, mark, name, description."""
_IMAGES: _Rows = (
    (0, b"QFI\xfb", "qcow2", "a qcow2 image"),
    (0, b"KDMV", "vmdk", "a VMDK"),
    (0, b"COWD", "cowd", "an extent of a VMDK of ESX (COWD)"),
    (0, b"\xbe\xba\xfe\xca\0\0\0\0", "sesparse", "an extent of a VMDK of ESX (SEsparse)"),
    (0, b"vhdxfile", "vhdx", "a VHDX"),
    (0, b"conectix", "vpc", "a VHD"),
    (0, b"QED\0", "qed", "a QED image"),
    (0, b"WithoutFreeSpace", "parallels", "an image of Parallels"),
    (0, b"WithouFreSpacExt", "parallels", "an image of Parallels"),
    (0, b"Bochs Virtual HD Image", "bochs", "an image of Bochs"),
    (0, b"sprs\0\0\0", "sparseimage", "a sparse image of macOS"),
    (0, b"shdw\0\0\0", "asif", "a sparse image of macOS (ASIF)"),
    (0, b"encrcdsa", "encrypted-dmg", "an encrypted dmg"),
    (0, b"\x3a\xff\x26\xed\x01\0", "android-sparse", "a sparse image of Android"),
    (0, b"#!/bin/sh\n#V2.0 Format", "cloop", "a cloop image"),
    (0, b"partclone-image", "partclone", "an image of partclone"),
    (0, b"\0ntfsclone-image", "ntfsclone", "an image of ntfsclone"),
    (0, b"FsA0", "fsarchiver", "an archive of FSArchiver"),
    (0, b"\xfe\xef\x01", "ghost", "an image of Ghost"),
    (0, b"\xb4\x6e\x68\x44", "acronis", "an archive of Acronis"),
    (0, b"VMA\0\0\0\0\x01", "vma", "a backup of Proxmox VE (VMA)"),
    (0, b"MSWIM\0\0\0", "wim", "a Windows image (WIM)"),
    (0, b"MComprHD", "chd", "a CHD image"),
    (64, b"\x7f\x10\xda\xbe", "vdi", "a VDI"),
)
_MARKS: dict[ContentGroup, _Rows] = {
    ContentGroup.EVIDENCE: (
        (0, b"EVF\x09\x0d\x0a\xff\x00", "ewf", "an EWF container (E01)"),
        (0, b"EVF2\x0d\x0a\x81\x00", "ewf", "an EWF container (Ex01)"),
        (0, b"LVF\x09\x0d\x0a\xff\x00", "ewf-logical", "logical evidence (L01)"),
        (0, b"LEF2\x0d\x0a\x81\x00", "ewf-logical", "logical evidence (Lx01)"),
        (0, b"AFF10\r\n\0", "aff", "an AFF container"),
        (0, b"ADSEGMENTEDFILE\0", "ad1", "logical evidence of FTK (AD1)"),
    ),
    ContentGroup.COMPRESSED: (
        (0, b"\x1f\x8b\x08", "gzip", "a gzip file"),
        *((0, b"BZh%d1AY&SY" % level, "bzip2", "a bzip2 file") for level in range(1, 10)),
        *((0, b"BZh%d\x17\x72\x45\x38\x50\x90" % level, "bzip2", "a bzip2 file") for level in range(1, 10)),
        (0, b"\xfd7zXZ\0", "xz", "an xz file"),
        (0, b"\x28\xb5\x2f\xfd", "zstd", "a zstd file"),
        (0, b"\x04\x22\x4d\x18", "lz4", "an lz4 file"),
        (0, b"\x02\x21\x4c\x18", "lz4", "an lz4 file"),
        (0, b"\x89LZO\0\r\n\x1a\n", "lzop", "an lzop file"),
        (0, b"LZIP\x01", "lzip", "an lzip file"),
        (0, b"BZ3v1", "bzip3", "a bzip3 file"),
        (0, b"7kSt\xa0\x31", "zpaq", "a zpaq archive"),
        (0, b"LRZI\0", "lrzip", "an lrzip file"),
        (0, b"\xff\x06\0\0sNaPpY", "snappy", "a snappy file"),
        *((0, mark, "lzfse", "an lzfse stream, as a dmg has it whose end is missing") for mark in (b"bvx1", b"bvx2")),
    ),
    ContentGroup.ARCHIVE: (
        (0, b"7z\xbc\xaf\x27\x1c", "7z", "a 7z archive"),
        (0, b"Rar!\x1a\x07", "rar", "a rar archive"),
        (0, b"PK\x05\x06", "zip", "an empty zip archive"),
        (0, b"PK\x07\x08PK\x03\x04", "zip", "one part of a zip archive"),
        (0, b"070701", "cpio", "a cpio archive"),
        (0, b"070702", "cpio", "a cpio archive"),
        (0, b"070707", "cpio", "a cpio archive"),
        (0, b"MSCF\0\0\0\0", "cab", "a cabinet file"),
        (0, b"xar!\0", "xar", "a xar archive"),
        (0, b"!<arch>\n", "ar", "an ar archive"),
        (0, b"\xed\xab\xee\xdb", "rpm", "an rpm package"),
    ),
}
_DOCUMENTS = (
    (0, b"\x7fELF", "a program"),
    (0, b"%PDF-", "a PDF"),
    (0, b"\x89PNG\r\n\x1a\n", "a picture"),
    (0, b"\xff\xd8\xff", "a picture"),
    (0, b"GIF8", "a picture"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document"),
    (0, b"\xd4\xc3\xb2\xa1", "a packet capture"),
    (0, b"\x0a\x0d\x0d\x0a", "a packet capture"),
    (0, b"ElfFile\0", "a Windows event log"),
    (0, b"regf", "a registry hive"),
    (0, b"PAGEDU", "a Windows memory dump"),
    (0, b"EMiL", "a memory dump of LiME"),
    (0, b"\xd2\xbe\xd2\xbe", "a suspended virtual machine of VMware"),
    (0, b"age-encryption.org/v1\n", "a file that age has encrypted"),
    (0, b"Salted__", "a file that openssl has encrypted"),
    (0, b"-----BEGIN PGP", "an OpenPGP message"),
    *((2, b"-lh%d-" % method, "an LHA archive") for method in (0, 5, 6, 7)),
    (0, b"OggS\0", "a sound"),
    (0, b"fLaC\0", "a sound"),
    (4, b"ftyp", "a video"),
    (0, b"\x1a\x45\xdf\xa3", "a video"),
)
