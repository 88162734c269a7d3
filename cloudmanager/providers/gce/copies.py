"""Snapshots of disks, and disks from snapshots: the next step for a disk that is in use elsewhere or far away."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from google.cloud import compute_v1

from cloudmanager.core.errors import (
    CloudError,
    CloudManagerError,
    CloudUnavailable,
    DiskNotFound,
    DiskReplaced,
    InvalidRequest,
)
from cloudmanager.core.incarnation import is_replaced
from cloudmanager.core.model import Disk, DiskId, Snapshot
from cloudmanager.providers._waiting import Deadline, TimedOut, wait_for
from cloudmanager.providers.gce.api import Compute
from cloudmanager.providers.gce.facts import GIB, refuse_other
from cloudmanager.providers.gce.resource_id import ResourceId, is_name
from cloudmanager.providers.gce.settings import GceSettings

Made = TypeVar("Made")
_LABELS = {"made-by": "cloudmanager"}
"""On everything that is made here; nothing else is ever deleted."""
_ALREADY_EXISTS = "alreadyExists"


class Copies:
    """The snapshots and disks that cloudmanager makes in one project."""

    def __init__(self, compute: Compute, provider: str, me: ResourceId, settings: GceSettings) -> None:
        self._compute = compute
        self._provider = provider
        self._me = me
        self._settings = settings

    def snapshot(self, disk: Disk, source: ResourceId, name: str) -> Snapshot:
        """Idempotent by name, for the same disk. Raises DiskReplaced."""
        _check_name(name)
        target = ResourceId(self._me.project, "global", "snapshots", name)
        wanted = compute_v1.Snapshot(name=name, source_disk=source.path, labels=_LABELS)
        deadline = Deadline(self._settings.copy_timeout_seconds)
        refuse_other(disk, self._compute.disk(source))
        self._make(lambda: self._compute.make_snapshot(target.project, wanted), deadline, f"copying {source.short}")
        made = self._ready(lambda: self._ready_snapshot(target), deadline, name)
        if ResourceId.from_link(made.source_disk) != source or is_replaced(disk, made.source_disk_id):
            raise InvalidRequest(f"There is a snapshot {name} of another disk: choose another name.")
        return Snapshot(DiskId(self._provider, target.path), made.disk_size_gb * GIB)

    def restore(self, snapshot: ResourceId, name: str) -> compute_v1.Disk:
        """In this instance's zone. Idempotent by name, for the same snapshot."""
        _check_name(name)
        target = ResourceId(self._me.project, self._me.scope, "disks", name)
        wanted = compute_v1.Disk(name=name, source_snapshot=snapshot.path, labels=_LABELS)
        deadline = Deadline(self._settings.copy_timeout_seconds)
        self._make(
            lambda: self._compute.make_disk(target.project, target.location, wanted), deadline, f"restoring {name}"
        )
        made = self._ready(lambda: self._ready_disk(target), deadline, name)
        if not made.source_snapshot or ResourceId.from_link(made.source_snapshot) != snapshot:
            raise InvalidRequest(f"There is a disk {name} with other bytes: choose another name.")
        return made

    def delete_disk(self, disk: Disk, resource: ResourceId) -> None:
        """Another disk that has its name since is not deleted in its place."""

        def labels() -> Mapping[str, str]:
            found = self._compute.disk(resource)
            refuse_other(disk, found)
            return found.labels

        self._delete(resource, labels, lambda: self._compute.delete_disk(resource))

    def delete_snapshot(self, snapshot: ResourceId) -> None:
        self._delete(
            snapshot, lambda: self._compute.snapshot(snapshot).labels, lambda: self._compute.delete_snapshot(snapshot)
        )

    def _make(self, start: Callable[[], compute_v1.Operation], deadline: Deadline, doing: str) -> None:
        try:
            self._compute.finish(start(), deadline, doing)
        except CloudManagerError as error:
            if error.cloud_code != _ALREADY_EXISTS:
                raise

    def _delete(
        self,
        item: ResourceId,
        labels: Callable[[], Mapping[str, str]],
        start: Callable[[], compute_v1.Operation],
    ) -> None:
        deadline = Deadline(self._settings.detach_timeout_seconds)
        try:
            if any(labels().get(key) != value for key, value in _LABELS.items()):
                raise InvalidRequest(f"{item.short} was not made by cloudmanager, so cloudmanager does not delete it.")
            self._compute.finish(start(), deadline, f"deleting {item.short}")
        except (DiskNotFound, DiskReplaced):
            return

    def _ready(self, look: Callable[[], Made | None], deadline: Deadline, name: str) -> Made:
        try:
            return wait_for(look, timeout=deadline.left, interval=self._settings.poll_seconds)
        except TimedOut:
            raise CloudUnavailable(
                f"{name} is not complete after {deadline.seconds:g} s; it is looked at again."
            ) from None

    def _ready_snapshot(self, snapshot: ResourceId) -> compute_v1.Snapshot | None:
        found = self._compute.snapshot(snapshot)
        return found if _is_ready(snapshot, found.status) else None

    def _ready_disk(self, disk: ResourceId) -> compute_v1.Disk | None:
        found = self._compute.disk(disk)
        return found if _is_ready(disk, found.status) else None


def _is_ready(item: ResourceId, status: str) -> bool:
    if status == "FAILED":
        raise CloudError(f"Compute Engine could not complete {item.short}: delete it and try again.", cloud_code=status)
    return status == "READY"


def _check_name(name: str) -> None:
    if not is_name(name):
        raise InvalidRequest(f"{name[:80]!a} cannot be a name: use a-z, 0-9 and -, a letter first, at most 63 in all.")
