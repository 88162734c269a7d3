"""What an inspection finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Image:
    """An image file, as QEMU's driver of that format will present it."""

    format: str
    """QEMU's name of the driver: raw, qcow2, vmdk, vdi, vpc, vhdx, parallels, dmg."""
    size_bytes: int
    """Virtual size: what a client sees. A multiple of 512, as QEMU's block layer has it."""
    backing: str | None = None
    """The file that it reads through, as the image names it: nothing of it was checked."""
    read_only_because: str = ""
    """Why QEMU cannot write to it, as a sentence; empty where it can."""
    driver_options: Mapping[str, str] = field(default_factory=dict)
    """What QEMU's driver must be told in its block options so that it reads the image as it was read here."""
    logical_sector_bytes: int | None = None
    """What the image says of its sectors (VHDX does); None where its format does not say."""
