"""What a deployment has done."""

from dataclasses import dataclass
from enum import StrEnum


class Way(StrEnum):
    """How content goes to a target."""

    DIRECT = "direct"
    """To a device or file of this machine."""
    NBD = "nbd"
    COMPRESSED = "compressed"
    """To the service that exports it, which writes it."""


@dataclass(frozen=True)
class Growth:
    """What filled the target."""

    partition: int | None
    """None: the disk has no partition table, and the file system is all of it."""
    before_bytes: int
    after_bytes: int
    file_system: str | None
    """The one that was grown with it. None: there is none of the kinds that can be grown."""


@dataclass(frozen=True)
class BadRange:
    """Bytes of the image that could not be read. The target has zeros there."""

    offset: int
    length: int


@dataclass(frozen=True)
class Result:
    """The image is on the target, and durable."""

    size_bytes: int
    """Of the image."""
    written_bytes: int
    """Sent to the target by this run; the rest was zero, or there already."""
    resumed_bytes: int
    """What an earlier run had written."""
    seconds: float
    is_verified: bool
    way: Way = Way.NBD
    growth: Growth | None = None
    bad_ranges: tuple[BadRange, ...] = ()
    """In order; those that an earlier run of the same deployment has skipped are among them."""
