"""Whether an image is as it was when it was last located, so that it need not be opened and read again.

A service may have a thousand images that nobody uses, and looks at them every few seconds.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from cloudmanager.core.model import Device, Disk
from cloudmanager.providers.local.directories import Place

_SETTLE_SECONDS = 3.0
"""Two changes in one tick of a file system's clock leave one time. FAT's tick is the longest: 2 s."""


class Stamp(NamedTuple):
    """What stat(2) says of a file: it differs after whatever was done to the file's bytes, size, name or mode."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: str) -> Self:
        """Of what the path leads to. Raises OSError."""
        status = os.stat(path)  # noqa: PTH116 - no Path per look
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True)
class Unchanged:
    """An image that was located, and what shows that it would be located again as the same device."""

    disk: Disk
    """As it was claimed."""
    device: Device
    absent: tuple[str, ...]
    """Where the same name would come first."""
    stamps: tuple[tuple[str, Stamp], ...]
    """Of the name's path, and of the image and those that it reads through."""

    @classmethod
    def since(cls, began: float, disk: Disk, device: Device, place: Place) -> Self | None:
        """Of an image that was located after `began`, a reading of the wall clock.

        None where it, or an image below it, may have changed in the meantime, or did a moment before.
        """
        images = [(str(place.path), device), *((image.path, image) for image in _chain(device))]
        try:
            stamps = {path: Stamp.of(path) for path, _ in images}
        except OSError:
            return None
        settled = (began - _SETTLE_SECONDS) * 1e9
        for path, image in images:
            stamp, identity = stamps[path], image.identity
            if (stamp.device, stamp.inode) != (identity.device, identity.inode) or stamp.changed_ns > settled:
                return None
        return cls(disk, device, tuple(map(str, place.before)), tuple(stamps.items()))

    def is_of(self, disk: Disk) -> bool:
        """Whether that was the disk."""
        return self.disk is disk or self.disk == disk

    def is_so(self) -> bool:
        """Costs a system call for each file and each earlier place."""
        try:
            for path, stamp in self.stamps:
                if Stamp.of(path) != stamp:
                    return False
        except OSError:
            return False
        return not any(map(os.path.lexists, self.absent))


def now() -> float:
    """The wall clock, which file systems stamp with."""
    return time.time()


def _chain(device: Device) -> Iterator[Device]:
    link: Device | None = device
    while link is not None:
        yield link
        link = link.backing
