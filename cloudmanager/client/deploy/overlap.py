"""Is a local target the image itself, or do they share bytes? Writing would destroy what is still to be read."""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from cloudmanager.client.address import NbdAddress
from cloudmanager.client.deploy import web
from cloudmanager.client.deploy.errors import TargetInUse
from cloudmanager.client.deploy.local_target import LocalTarget
from cloudmanager.client.deploy.sources import STANDARD_INPUT, SourceLike

_Identity = tuple[str, int, int]


def refuse_overlap(source: SourceLike, target: LocalTarget) -> None:
    """Raises TargetInUse."""
    status = _status(source)
    if status is None:
        return
    image, disk = _lies_in(status), _lies_in(os.fstat(target.descriptor))
    if image[0] in disk or disk[0] in image:
        raise TargetInUse(f"{target.name} is where the image is read from. Name another target, or copy the image.")


def _status(source: SourceLike) -> os.stat_result | None:
    """Of a source on this machine."""
    if isinstance(source, NbdAddress) or web.is_url(str(source)):
        return None
    return os.fstat(sys.stdin.fileno()) if str(source) == STANDARD_INPUT else Path(source).stat()


def _lies_in(status: os.stat_result) -> list[_Identity]:
    """A file or device, and what its bytes are part of: the partition's disk, the file behind a loop device."""
    if not stat.S_ISBLK(status.st_mode):
        return [("file", status.st_dev, status.st_ino)]
    device = Path(f"/sys/dev/block/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}").resolve()
    disk = device.parent if (device / "partition").exists() else device
    found = [_device(each) for each in dict.fromkeys((device, disk))]
    with suppress(OSError):  # it is no loop device, or its file has no name any more
        behind = Path((disk / "loop" / "backing_file").read_text().rstrip("\n")).stat()
        found.append(("file", behind.st_dev, behind.st_ino))
    return found


def _device(directory: Path) -> _Identity:
    major, minor = (directory / "dev").read_text().split(":")
    return ("device", int(major), int(minor))
