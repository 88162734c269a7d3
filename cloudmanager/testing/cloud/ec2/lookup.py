"""Finds what a request names, within its account and region. Raises EC2's errors for malformed and unknown ids."""

import re

from cloudmanager.testing.cloud.ec2 import errors
from cloudmanager.testing.cloud.ec2.resources import Instance, Scope, Snapshot, State, Volume


def volume(state: State, scope: Scope, volume_id: str) -> Volume:
    _check_id("Volume", volume_id)
    found = state.volumes.get(volume_id)
    if found is None or found.scope != scope:
        raise errors.no_volume(volume_id)
    return found


def instance(state: State, scope: Scope, instance_id: str) -> Instance:
    _check_id("Instance", instance_id)
    found = state.instances.get(instance_id)
    if found is None or found.scope != scope:
        raise errors.no_instance(instance_id)
    return found


def snapshot(state: State, scope: Scope, snapshot_id: str) -> Snapshot:
    _check_id("Snapshot", snapshot_id)
    found = state.snapshots.get(snapshot_id)
    if found is None or found.scope != scope:
        raise errors.no_snapshot(snapshot_id)
    return found


def _check_id(kind: str, value: str) -> None:
    prefix = {"Volume": "vol", "Instance": "i", "Snapshot": "snap"}[kind]
    if not re.fullmatch(rf"{prefix}-(?:[0-9a-f]{{8}}|[0-9a-f]{{17}})", value):
        raise errors.malformed_id(kind, value, prefix)
