"""What the name of a raw file says that its bytes do not: that it is one piece of a disk, or should be an image format.

The pieces of a split image are as raw as a whole one, and the first even begins with the partition table. Their names
are all that there is to go by: `split`, imagers and successors of dd number them, VMware calls its extents after their
descriptor. Who means the bytes as they are gives them a name of their own (a hard link does), or a loop device.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePath

_IMAGE_SUFFIXES = {
    ".qcow2": "a qcow2 image",
    ".vmdk": "a VMDK",
    ".vdi": "a VDI",
    ".vhd": "a VHD",
    ".vhdx": "a VHDX",
    ".avhd": "a VHD",
    ".avhdx": "a VHDX",
    ".e01": "an EWF container",
    ".ex01": "an EWF container",
    ".aff": "an AFF container",
    ".aff4": "an AFF4 container",
    ".gz": "a gzip file",
    ".tgz": "a gzip file",
    ".bz2": "a bzip2 file",
    ".xz": "an xz file",
    ".zst": "a zstd file",
    ".lz4": "an lz4 file",
    ".lzma": "an lzma file",
    ".tar": "a tar archive",
    ".ova": "an OVA",
    ".zip": "a zip archive",
    ".7z": "a 7z archive",
    ".rar": "a rar archive",
}
_WITHOUT_MARK = {
    ".gpg": "an OpenPGP file",
    ".pgp": "an OpenPGP file",
    ".br": "a brotli file",
    ".vbk": "a backup of Veeam",
    ".vib": "a backup of Veeam",
    ".tibx": "a backup of Acronis",
}
"""Whose bytes look like any others."""
_DISK_MARKS = ((510, b"\x55\xaa"), (0, b"ER"), (1024, b"H+"), (1024, b"HX"), (1024, b"BD"), (32, b"NXSB"))
"""Of a master boot record, Apple's partition map, HFS+, HFSX, HFS and APFS."""
_EXTENT_WORDS = "an extent of a VMDK, which has a descriptor in another file"
_SEGMENT_WORDS = "one segment of a split image"
_EXTENT = re.compile(r".*-(flat|delta|ctk|sesparse|rdm|rdmp|[fs]\d{3,})\.vmdk", re.IGNORECASE)
_NUMBERED = re.compile(r"(.*\.)(?!(?:19|20)\d\d$)(\d{2,5})")
"""case.001, disk.img.00. One digit is how old copies are numbered, four may be a year."""
_PART = re.compile(r"(.*[._-]part)(\d{1,4})", re.IGNORECASE)
"""Or a partition's image: pieces have one size, but for the last."""
_LETTERED = re.compile(r"(.*\.|x)([a-z]{2,3}|[A-Z]{2,3})")
"""split's own names: image.aa, xaa."""
_APPENDED = re.compile(r"(.*\.(?:raw|img|dd|bin|image|disk))([a-z]{2,3}|\d{2,4})", re.IGNORECASE)
"""split's names after a prefix without a full stop: disk.rawaa."""


_ALONE = re.compile(r".*\.0\d{2,4}|.*\.(?:raw|img|dd|bin|image|disk)\.?(?:0\d{1,4}|aa?[a-z])|(?:.*\.|x)aa?[a-z]")
"""What is hardly anything but a piece, whatever stands beside it: case.001, disk.raw.aa, xaa."""


def lone_piece(name: str) -> str | None:
    """As `piece`, of a file whose neighbours cannot be seen: on a web server, in an archive."""
    return _EXTENT_WORDS if _EXTENT.fullmatch(name) else _SEGMENT_WORDS if _ALONE.fullmatch(name) else None


def piece(path: Path) -> str | None:
    """What the file is a piece of, as a sentence's end, if its name says so; None for a whole disk."""
    name = path.name
    if _EXTENT.fullmatch(name):
        return _EXTENT_WORDS
    if any(_belongs(path, path.with_name(other)) for other in _neighbours(name, path)) or _is_later_segment(name):
        return _SEGMENT_WORDS
    return None


def _belongs(path: Path, other: Path) -> bool:
    try:
        size, other_size = path.stat().st_size, other.stat().st_size
    except OSError:
        return other.exists()
    is_ordered = other_size >= size if other.name < path.name else other_size <= size
    return is_ordered or not _PART.fullmatch(path.name)


def has_footer(name: str) -> bool:
    """Whether the format that the name promises shows only at a file's end: of a fixed VHD, a dmg."""
    return name.lower().endswith((".vhd", ".dmg"))


def other_format(name: str, head: bytes) -> str | None:
    """The format that its name promises, for a file whose bytes are not in it.

    A dmg may be a raw disk too; then it begins like one.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix == ".dmg" and not any(head[at:].startswith(mark) for at, mark in _DISK_MARKS):
        return "a dmg"
    return _IMAGE_SUFFIXES.get(suffix)


def format_without_mark(name: str) -> str | None:
    """What its name says to be no disk, and its bytes would not, if it is that."""
    return _WITHOUT_MARK.get(PurePath(name).suffix.lower())


def _is_later_segment(name: str) -> bool:
    """The second or a later one, also where it is alone: .002 to .099."""
    match = _NUMBERED.fullmatch(name)
    return match is not None and len(match[2]) == 3 and match[2].startswith("0") and int(match[2]) >= 2


def _neighbours(name: str, path: Path) -> Iterator[str]:
    for pattern in (_NUMBERED, _PART, _APPENDED, _LETTERED):
        match = pattern.fullmatch(name)
        if match is None:
            continue
        stem, position = match[1], match[2]
        is_numbered = position.isdigit()
        if is_numbered and not position.startswith("0") and path.with_name(stem.rstrip(".")).exists():
            return  # disk.img beside disk.img.10: copies of it
        for other in _around_number(position) if is_numbered else _around_letters(position):
            yield stem + other
        return


def _around_number(position: str) -> Iterator[str]:
    number = int(position)
    if number:
        yield str(number - 1).zfill(len(position))
    yield str(number + 1).zfill(len(position))


def _around_letters(position: str) -> Iterator[str]:
    """aa, ab … az, ba."""
    first = "a" if position.islower() else "A"
    number = 0
    for letter in position:
        number = number * 26 + ord(letter) - ord(first)
    for other in (number - 1, number + 1):
        if 0 <= other < 26 ** len(position):
            digits = [other // 26**power % 26 for power in reversed(range(len(position)))]
            yield "".join(chr(ord(first) + digit) for digit in digits)
