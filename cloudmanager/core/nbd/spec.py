"""What is to be served, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloudmanager.core.model import Access, Device

_SECTOR_BYTES = 512


@dataclass(frozen=True)
class ServerSpec:
    """One export's server."""

    export_id: str
    """Names the private directory."""
    name: str
    """Unguessable NBD export name."""
    port: int
    access: Access
    device: Device
    told_bytes: int | None = None
    """The size that clients were told before. It stays so, however much the device has grown."""
    claims: Mapping[str, bool] = field(default_factory=dict)
    """Whose locks the server holds: canonical ids of its disk and of what that reads through → whether exclusively."""

    @property
    def size_bytes(self) -> int:
        return self.device.size_bytes if self.told_bytes is None else self.told_bytes

    @property
    def served_bytes(self) -> int:
        """The size in whole sectors: QEMU counts in these."""
        return -(-self.size_bytes // _SECTOR_BYTES) * _SECTOR_BYTES


def scratch_file(directory: Path) -> Path:
    """Where a scratch export's overlay is, in its private directory."""
    return directory / "scratch.qcow2"
