"""What is to be served, and how."""

from dataclasses import dataclass
from pathlib import Path

from cloudmanager.core.model import Access, Device


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


def scratch_file(directory: Path) -> Path:
    """Where a scratch export's overlay is, in its private directory."""
    return directory / "scratch.qcow2"
