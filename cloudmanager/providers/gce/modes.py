"""Whether a disk can be attached read-only."""

from google.cloud import compute_v1

from cloudmanager.core.model import Access, Disk
from cloudmanager.providers.gce.api import Compute
from cloudmanager.providers.gce.facts import can_attach_read_only
from cloudmanager.providers.gce.resource import Resource

MOST_REMEMBERED = 10_000


class AttachModes:
    """Remembers the answer for the disks that were described: a disk's type never changes."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._read_only: dict[str, bool] = {}

    def remember(self, canonical_id: str, disk: compute_v1.Disk) -> None:
        if len(self._read_only) >= MOST_REMEMBERED:
            self._read_only.clear()
        self._read_only[canonical_id] = can_attach_read_only(disk)

    def access(self, disk: Disk, resource: Resource, wanted: Access) -> Access:
        """READ_ONLY where nothing more is wanted and Compute Engine can; it asks about a disk that it does not know."""
        if wanted.writes_disk:
            return Access.READ_WRITE
        if disk.canonical_id not in self._read_only:
            self.remember(disk.canonical_id, self._compute.disk(resource))
        return Access.READ_ONLY if self._read_only[disk.canonical_id] else Access.READ_WRITE
