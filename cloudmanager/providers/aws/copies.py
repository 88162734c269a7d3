"""Snapshots of volumes, and volumes from snapshots. What we made is known by its tags."""

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from cloudmanager.core.errors import CloudError, CloudUnavailable, DiskNotFound, InvalidRequest, WrongZone
from cloudmanager.providers._waiting import TimedOut, wait_for
from cloudmanager.providers.aws.api import Ec2, Tagged, filter_by
from cloudmanager.providers.aws.facts import SnapshotState, Volume, VolumeSnapshot, VolumeState
from cloudmanager.providers.aws.machine import Machine
from cloudmanager.providers.aws.resource_id import ResourceId
from cloudmanager.providers.aws.settings import AwsSettings

Made = TypeVar("Made", Volume, VolumeSnapshot)
_OURS = {"made-by": "cloudmanager"}
_USABLE = (VolumeState.AVAILABLE, VolumeState.IN_USE)
_EPOCH = datetime.fromtimestamp(0, UTC)


class Copies:
    """In one region."""

    def __init__(self, ec2: Ec2, settings: AwsSettings, machine: Machine) -> None:
        self._ec2 = ec2
        self._settings = settings
        self._machine = machine

    def snapshot(self, id: ResourceId, name: str) -> VolumeSnapshot:
        """CreateSnapshot has no client token: the tag `Name` identifies a snapshot that was made before."""
        tagged = Tagged({**_OURS, "Name": name})
        made = self._ec2.snapshots(filter_by("volume-id", id.id), *tagged.filters())
        usable = [item for item in made if item.state is not SnapshotState.ERROR]
        chosen = min(usable, key=lambda item: (item.started_at or _EPOCH, item.id), default=None)
        chosen = chosen or self._ec2.create_snapshot(id.id, f"{name} of {id.id}, made by cloudmanager", tagged)
        return self._awaited(lambda: self._completed(chosen.id), chosen.id)

    def restore(self, id: ResourceId, name: str) -> Volume:
        """A volume in this machine's zone."""
        if id.region != self._machine.region:
            raise WrongZone(f"{id.id} is in {id.region}: copy it to {self._machine.region} first.")
        tagged = Tagged({**_OURS, "Name": name})
        zone = filter_by("availability-zone", self._machine.zone)
        made = self._ec2.every_volume(filter_by("snapshot-id", id.id), zone, *tagged.filters())
        usable = [volume for volume in made if volume.state in (VolumeState.CREATING, *_USABLE)]
        chosen = min(usable, key=lambda volume: (volume.created_at or _EPOCH, volume.id), default=None)
        chosen = chosen or self._ec2.create_volume(
            id.id, self._machine.zone, self._settings.volume_type, str(uuid.uuid4()), tagged
        )
        return self._awaited(lambda: self._available(chosen.id), chosen.id)

    def delete_volume(self, id: ResourceId) -> None:
        try:
            volume = self._ec2.volume(id.id)
            if not volume.state.is_gone:
                _refuse_foreign(id, volume.tags)
                self._ec2.delete_volume(id.id)
        except DiskNotFound:
            return

    def delete_snapshot(self, id: ResourceId) -> None:
        try:
            _refuse_foreign(id, self._ec2.snapshot(id.id).tags)
            self._ec2.delete_snapshot(id.id)
        except DiskNotFound:
            return

    def _completed(self, snapshot_id: str) -> VolumeSnapshot | None:
        snapshot = self._ec2.snapshot(snapshot_id)
        if snapshot.state is SnapshotState.ERROR:
            raise CloudError(f"EC2 could not make the snapshot {snapshot_id}: {snapshot.why or 'it does not say why'}.")
        return snapshot if snapshot.state is SnapshotState.COMPLETED else None

    def _available(self, volume_id: str) -> Volume | None:
        volume = self._ec2.volume(volume_id)
        if volume.state is VolumeState.ERROR:
            raise CloudError(f"EC2 could not make the volume {volume_id}: check that its KMS key may be used.")
        return volume if volume.state in _USABLE else None

    def _awaited(self, look: Callable[[], Made | None], made: str) -> Made:
        seconds = self._settings.copy_timeout_seconds
        try:
            return wait_for(look, timeout=seconds, interval=self._settings.poll_seconds)
        except TimedOut:
            raise CloudUnavailable(f"EC2 has not finished {made} after {seconds:g} s; ask again.") from None


def _refuse_foreign(id: ResourceId, tags: Mapping[str, str]) -> None:
    if any(tags.get(key) != value for key, value in _OURS.items()):
        raise InvalidRequest(f"{id.id} has no tag made-by=cloudmanager: cloudmanager deletes only what it made.")
