"""The logical volumes on one LVM2 physical volume, read from its metadata.

The kernel's device mapper and the tools of LVM are not used: a worker may have neither, and a group on an unknown
disk can have the name of one that this machine uses. The format: lib/format_text/layout.h and lib/label of the LVM2
project.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from cloudmanager.client.access_methods.errors import AccessFailed
from cloudmanager.linux.block import SECTOR_BYTES

_LABEL_SECTORS = 4
"""The label is in one of the first."""
_LABEL = struct.Struct("<8sQII8s")
_PHYSICAL_VOLUME = struct.Struct("<32sQ")
_AREA = struct.Struct("<QQ")
_METADATA_HEADER = struct.Struct("<I16sIQQ")
_METADATA_MAGIC = b" LVM2 x[5A%r0N*>"
_LOCATION = struct.Struct("<QQII")
_HEADER_BYTES = 512
_LONGEST_TEXT = 16 * 2**20

Value: TypeAlias = "str | int | list[Value] | Mapping[str, Value]"
_TOKEN = re.compile(r'\s*(?:#[^\n]*\n\s*)*(?:"((?:[^"\\]|\\.)*)"|([A-Za-z0-9_.+-]+)|([={}\[\],]))')


@dataclass(frozen=True)
class LogicalVolume:
    name: str
    """`group/name`."""
    size_bytes: int
    start_bytes: int | None
    """On the disk. None: it is not in one piece on this physical volume."""


def logical_volumes(disk: Path, member: range) -> list[LogicalVolume]:
    """Those of the group that the physical volume at these bytes of the disk belongs to.

    Raises AccessFailed when it cannot be understood. A volume in no group has none.
    """
    try:
        with disk.open("rb") as file:
            identity, text = _metadata(file, member.start)
        return list(_volumes(parse(text), identity, member.start)) if text else []
    except (struct.error, KeyError, TypeError, ValueError, IndexError, StopIteration) as error:
        raise AccessFailed(
            f"the LVM metadata at byte {member.start} of {disk} cannot be understood: {error}"
        ) from error


def parse(text: str) -> dict[str, Value]:
    """LVM's text format: `name = value` and `name { … }`. Raises ValueError."""
    tokens = _tokens(text)
    return _section(tokens, until=None)


def _metadata(file: BinaryIO, start: int) -> tuple[str, str]:
    """The physical volume's own id, and the text that describes its group, empty for none."""
    sectors = _read(file, start, _LABEL_SECTORS * SECTOR_BYTES)
    found = next(offset for offset in range(0, len(sectors), SECTOR_BYTES) if sectors[offset:].startswith(b"LABELONE"))
    *_, header, _ = _LABEL.unpack_from(sectors, found)
    position = found + header
    identity, _ = _PHYSICAL_VOLUME.unpack_from(sectors, position)
    areas = list(_areas(sectors, position + _PHYSICAL_VOLUME.size))
    _, metadata = areas[: areas.index((0, 0))], areas[areas.index((0, 0)) + 1 :]
    texts = (_text(file, start + offset, size) for offset, size in metadata if offset)
    return identity.decode("ascii"), next(filter(None, texts), "")


def _areas(sectors: bytes, position: int) -> Iterator[tuple[int, int]]:
    """The data areas, (0, 0), and the metadata areas, up to the second (0, 0)."""
    ends = 0
    while ends < 2:
        area = _AREA.unpack_from(sectors, position)
        position += _AREA.size
        ends += area == (0, 0)
        yield area


def _text(file: BinaryIO, start: int, area_size: int) -> str:
    """The text is in a ring that begins after the header."""
    header = _read(file, start, _HEADER_BYTES)
    _, magic, *_ = _METADATA_HEADER.unpack_from(header)
    offset, size, _, _ = _LOCATION.unpack_from(header, _METADATA_HEADER.size)
    if magic != _METADATA_MAGIC or not size:
        return ""
    if size > min(area_size, _LONGEST_TEXT):
        raise ValueError("its length is impossible")
    first = min(size, area_size - offset)
    raw = _read(file, start + offset, first) + _read(file, start + _HEADER_BYTES, size - first)
    return raw.rstrip(b"\0").decode()


def _volumes(metadata: Mapping[str, Value], identity: str, start: int) -> Iterator[LogicalVolume]:
    group, described = next((name, value) for name, value in metadata.items() if isinstance(value, Mapping))
    extent = _number(described["extent_size"]) * SECTOR_BYTES
    physical = _table(described["physical_volumes"])
    ours = next(name for name, each in physical.items() if _word(_table(each)["id"]).replace("-", "") == identity)
    data = start + _number(_table(physical[ours])["pe_start"]) * SECTOR_BYTES
    for name, each in _table(described.get("logical_volumes", {})).items():
        segments = [_table(value) for key, value in _table(each).items() if re.fullmatch(r"segment\d+", key)]
        size = sum(_number(segment["extent_count"]) for segment in segments) * extent
        first = _first_extent(segments, ours)
        yield LogicalVolume(f"{group}/{name}", size, None if first is None else data + first * extent)


def _first_extent(segments: list[Mapping[str, Value]], ours: str) -> int | None:
    """Where the segments begin, if each follows the one before it on our physical volume."""
    first = expected = None
    for segment in segments:
        if segment["type"] != "striped" or segment.get("stripe_count") != 1:
            return None
        name, begin = _stripe(segment["stripes"])
        if name != ours or expected not in (None, begin):
            return None
        first = begin if first is None else first
        expected = begin + _number(segment["extent_count"])
    return first


def _stripe(value: Value) -> tuple[str, int]:
    if isinstance(value, list) and len(value) == 2:
        return _word(value[0]), _number(value[1])
    raise TypeError(f"{value!r} is no stripe")


def _tokens(text: str) -> Iterator[Value | None]:
    """Values as they are, punctuation as a list of one character, None from the end on."""
    position = 0
    text = text.rstrip() + "\n"
    while found := _TOKEN.match(text, position):
        position = found.end()
        string, bare, punctuation = found.groups()
        if string is not None:
            yield re.sub(r"\\(.)", r"\1", string)
        elif bare is not None:
            yield int(bare) if re.fullmatch(r"-?\d+", bare) else bare
        else:
            yield [punctuation]
    if text[position:].strip() and not text[position:].lstrip().startswith("#"):
        raise ValueError(f"unexpected {text[position:].lstrip()[:20]!r}")
    yield from itertools.repeat(None)


def _section(tokens: Iterator[Value | None], until: Value | None) -> dict[str, Value]:
    section: dict[str, Value] = {}
    while (name := next(tokens)) != until:
        sign = next(tokens)
        if sign == ["{"]:
            section[str(name)] = _section(tokens, until=["}"])
        elif sign == ["="]:
            section[str(name)] = _value(tokens)
        else:
            raise ValueError(f"{name} is followed by {sign}")
    return section


def _value(tokens: Iterator[Value | None]) -> Value:
    value = next(tokens)
    if value != ["["]:
        return _known(value)
    return [_known(each) for each in iter(lambda: next(tokens), ["]"]) if each != [","]]


def _known(value: Value | None) -> Value:
    if isinstance(value, (str, int)):
        return value
    raise ValueError(f"{value} is no value")


def _table(value: Value) -> Mapping[str, Value]:
    if isinstance(value, Mapping):
        return value
    raise TypeError(f"{value!r} is no section")


def _number(value: Value) -> int:
    if isinstance(value, int):
        return value
    raise TypeError(f"{value!r} is no number")


def _word(value: Value) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"{value!r} is no text")


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)
