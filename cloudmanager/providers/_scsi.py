"""What a SCSI disk says of itself: vital product data, as the kernel keeps it in sysfs (SPC-4, 7.8)."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.core.exhaustion import raise_exhausted
from cloudmanager.providers._block_devices import BlockDevice

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Designator:
    """One entry of page 0x83."""

    code_set: int
    association: int
    """0: the disk itself, 1: the port, 2: the target device."""
    type: int
    """0: vendor specific, 1: T10 vendor, 2: EUI-64, 3: NAA."""
    content: bytes


@dataclass(frozen=True)
class ScsiAddress:
    host: int
    channel: int
    target: int
    lun: int


def designators(disk: BlockDevice) -> list[Designator]:
    """Page 0x83; empty where it is missing or damaged."""
    return list(_entries(_page(disk.content("device/vpd_pg83"), 0x83)))


def vendor_serials(disk: BlockDevice) -> set[str]:
    """The names that the disk gives itself: vendor specific designators in ASCII, and page 0x80."""
    names = {_text(entry.content) for entry in designators(disk) if (entry.association, entry.type) == (0, 0)}
    names.add(_text(_page(disk.content("device/vpd_pg80"), 0x80)))
    return names - {""}


def address(disk: BlockDevice) -> ScsiAddress | None:
    """Host, channel, target and LUN; None when it is no SCSI disk."""
    numbers = disk.parent().name.split(":")
    if len(numbers) != 4 or not all(number.isdecimal() for number in numbers):
        return None
    return ScsiAddress(*map(int, numbers))


def rescan(sys_root: Path, is_wanted: Callable[[Path], bool], lun: int) -> None:
    """Has the kernel look for new disks on the hosts whose directory in sysfs `is_wanted`; nothing where it may not.

    It looks at the other LUNs of a target only when there is a disk at LUN 0. So `lun` is asked for besides.
    """
    for link in sorted((sys_root / "class" / "scsi_host").glob("*")):
        if not is_wanted(link.resolve()):
            continue
        for wanted in ("- - -", f"- - {lun}"):
            try:
                with (link / "scan").open("w") as scan:
                    scan.write(wanted)
            except OSError as error:
                raise_exhausted(error)
                log.debug("%s/scan cannot be written: %s", link, error.strerror)


def _page(data: bytes, code: int) -> bytes:
    if len(data) < 4 or data[1] != code:
        return b""
    length = int.from_bytes(data[2:4], "big")
    return data[4 : 4 + length] if len(data) >= 4 + length else b""


def _entries(content: bytes) -> Iterator[Designator]:
    while len(content) >= 4:
        length = content[3]
        if len(content) < 4 + length:
            return
        yield Designator(content[0] & 0x0F, content[1] >> 4 & 0x03, content[1] & 0x0F, content[4 : 4 + length])
        content = content[4 + length :]


def _text(content: bytes) -> str:
    try:
        return content.decode("ascii").strip(" \0")
    except UnicodeDecodeError:
        return ""
