"""Snapshots of disks, and disks from snapshots: what is made here carries a tag, and only that is ever deleted."""

from typing import TypeVar

from cloudmanager.core.errors import CloudUnavailable, Conflict, InvalidRequest, WrongZone
from cloudmanager.core.incarnation import is_replaced
from cloudmanager.core.model import Disk
from cloudmanager.providers._waiting import Deadline, TimedOut
from cloudmanager.providers.azure.api import Compute
from cloudmanager.providers.azure.facts import DiskFacts, Place, SnapshotFacts
from cloudmanager.providers.azure.resource_id import ResourceId

_TAGS = {"made-by": "cloudmanager"}
Copy = TypeVar("Copy", DiskFacts, SnapshotFacts)


class Copies:
    """Names are unique in a resource group, so the same name means the same copy."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute

    def snapshot(self, disk: Disk, source: ResourceId, id: ResourceId, deadline: Deadline) -> SnapshotFacts:
        """Returns when the copy is complete. Raises DiskReplaced, Conflict when the name is taken by something else."""
        found = self._compute.find_snapshot(id)
        if found is None:
            copied = self._compute.disk(source)
            copied.refuse_other(disk)
            self._compute.make_snapshot(id, copied, _TAGS, deadline.left)
        else:
            _check_is_copy(found, source, is_other=is_replaced(disk, found.source_unique_id))

        def look() -> SnapshotFacts | None:
            taken = self._compute.snapshot(id)
            return taken if taken.is_complete else None

        try:
            return deadline.wait_for(look)
        except TimedOut:
            raise CloudUnavailable(
                f"Snapshot {id.name} is not complete after {deadline.seconds:g} s; ask again for the same name."
            ) from None

    def restore(self, source: ResourceId, id: ResourceId, place: Place, deadline: Deadline) -> DiskFacts:
        """A disk at `place`. Raises Conflict when the name is taken by something else."""
        found = self._compute.find_disk(id)
        if found is not None:
            _check_is_copy(found, source)
            return found
        snapshot = self._compute.snapshot(source)
        if snapshot.place.region.casefold() != place.region.casefold():
            raise WrongZone(f"Snapshot {source.name} is in {snapshot.place.region} and this machine in {place.region}.")
        self._compute.make_disk(id, snapshot, place, _TAGS, deadline.left)
        return self._compute.disk(id)

    def delete_disk(self, disk: Disk, id: ResourceId, deadline: Deadline) -> None:
        """Not one that got its name later. Raises InvalidRequest for a disk that was not made here."""
        found = self._compute.find_disk(id)
        if found is not None and not is_replaced(disk, found.unique_id, found.created_at):
            _check_is_ours(found)
            self._compute.delete_disk(id, deadline.left)

    def delete_snapshot(self, id: ResourceId, deadline: Deadline) -> None:
        """Raises InvalidRequest for a snapshot that was not made here."""
        found = self._compute.find_snapshot(id)
        if found is not None:
            _check_is_ours(found)
            self._compute.delete_snapshot(id, deadline.left)


def _check_is_copy(found: Copy, source: ResourceId, *, is_other: bool = False) -> None:
    is_copy = found.source is not None and found.source.key == source.key and not is_other
    if not (is_copy and _is_ours(found)):
        raise Conflict(f"{found.id.short} exists and is no copy of {source.name} made here: choose another name.")


def _check_is_ours(found: Copy) -> None:
    if not _is_ours(found):
        raise InvalidRequest(
            f"{found.id.short} does not carry the tag made-by=cloudmanager: what was not made here is not deleted."
        )


def _is_ours(found: Copy) -> bool:
    return all(found.tags.get(name) == value for name, value in _TAGS.items())
