"""The Describe actions: they read, and change nothing."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from cloudmanager.testing.cloud.ec2 import errors, state, views
from cloudmanager.testing.cloud.ec2.accounts import ZONES
from cloudmanager.testing.cloud.ec2.context import RequestContext
from cloudmanager.testing.cloud.ec2.instance_types import INSTANCE_TYPES, InstanceType
from cloudmanager.testing.cloud.ec2.schema import Members, Value
from cloudmanager.testing.cloud.ec2.selection import Filters
from cloudmanager.testing.cloud.ec2.state import Instance, Scope, Snapshot, State, Volume

Kept = TypeVar("Kept", Volume, Instance, Snapshot)


def _one(value: object) -> list[str]:
    if isinstance(value, bool):
        return ["true" if value else "false"]
    return [] if value is None else [str(value)]


_VOLUME_FILTERS = Filters[Volume](
    {
        "attachment.device": lambda volume: [item.device for item in volume.attachments],
        "attachment.instance-id": lambda volume: [item.instance_id for item in volume.attachments],
        "attachment.status": lambda volume: [item.state.value for item in volume.attachments],
        "attachment.delete-on-termination": lambda volume: [
            text for item in volume.attachments for text in _one(item.delete_on_termination)
        ],
        "availability-zone": lambda volume: [volume.zone],
        "encrypted": lambda volume: _one(volume.is_encrypted),
        "multi-attach-enabled": lambda volume: _one(volume.is_multi_attach),
        "size": lambda volume: _one(volume.size_gib),
        "snapshot-id": lambda volume: [volume.snapshot_id],
        "status": lambda volume: [volume.state.value],
        "volume-id": lambda volume: [volume.id],
        "volume-type": lambda volume: [volume.type],
    },
    tags=lambda volume: volume.tags,
)

_INSTANCE_FILTERS = Filters[Instance](
    {
        "availability-zone": lambda instance: [instance.zone],
        "instance-id": lambda instance: [instance.id],
        "instance-state-name": lambda instance: [instance.state.value],
        "instance-type": lambda instance: [instance.type.name],
        "private-ip-address": lambda instance: [instance.private_ip],
    },
    tags=lambda instance: instance.tags,
)

_SNAPSHOT_FILTERS = Filters[Snapshot](
    {
        "description": lambda snapshot: [snapshot.description],
        "owner-id": lambda snapshot: [snapshot.scope.account],
        "progress": lambda snapshot: [snapshot.progress],
        "snapshot-id": lambda snapshot: [snapshot.id],
        "status": lambda snapshot: [snapshot.state.value],
        "volume-id": lambda snapshot: [snapshot.volume_id],
        "volume-size": lambda snapshot: _one(snapshot.size_gib),
    },
    tags=lambda snapshot: snapshot.tags,
)

_INSTANCE_TYPE_FILTERS = Filters[InstanceType](
    {
        "ebs-info.attachment-limit-type": lambda kind: [kind.limit_type.value],
        "hypervisor": lambda kind: [kind.hypervisor.value],
        "instance-type": lambda kind: [kind.name],
    }
)

_ZONE_FILTERS = Filters[tuple[str, str]](
    {"region-name": lambda zone: [zone[0]], "zone-name": lambda zone: [zone[1]], "state": lambda _: ["available"]}
)

_REGION_FILTERS = Filters[str]({"region-name": lambda region: [region]})


def volumes(request: RequestContext) -> Members:
    parameters = request.parameters
    found = _named(request, "VolumeIds", request.seen.volumes, state.volume)
    chosen, token = request.page(_VOLUME_FILTERS.select(found, parameters), "VolumeIds")
    return {"Volumes": [views.volume(item) for item in chosen], "NextToken": token}


def instances(request: RequestContext) -> Members:
    parameters = request.parameters
    found = _named(request, "InstanceIds", request.seen.instances, state.instance)
    chosen, token = request.page(_INSTANCE_FILTERS.select(found, parameters), "InstanceIds")
    reservations: list[Value] = [
        {
            "ReservationId": f"r-{item.id.removeprefix('i-')}",
            "OwnerId": request.scope.account,
            "Instances": [views.instance(item, request.seen)],
        }
        for item in chosen
    ]
    return {"Reservations": reservations, "NextToken": token}


def snapshots(request: RequestContext) -> Members:
    parameters = request.parameters
    found = _named(request, "SnapshotIds", request.seen.snapshots, state.snapshot)
    owners = parameters.texts("OwnerIds")
    if owners and not {"self", request.scope.account} & set(owners):
        found = []
    chosen, token = request.page(_SNAPSHOT_FILTERS.select(found, parameters), "SnapshotIds")
    return {"Snapshots": [views.snapshot(item) for item in chosen], "NextToken": token}


def instance_types(request: RequestContext) -> Members:
    parameters = request.parameters
    names = parameters.texts("InstanceTypes")
    unknown = [name for name in names if name not in INSTANCE_TYPES]
    if unknown:
        raise errors.Ec2Error(
            "InvalidInstanceType", f"The following supplied instance types do not exist: [{', '.join(unknown)}]"
        )
    kinds = [INSTANCE_TYPES[name] for name in names] or list(INSTANCE_TYPES.values())
    chosen, token = request.page(_INSTANCE_TYPE_FILTERS.select(kinds, parameters), "InstanceTypes")
    return {"InstanceTypes": [views.instance_type(kind) for kind in chosen], "NextToken": token}


def zones(request: RequestContext) -> Members:
    parameters, region = request.parameters, request.scope.region
    names = parameters.texts("ZoneNames") or ZONES[region]
    for name in names:
        if name not in ZONES[region]:
            raise errors.invalid_value(name, "availabilityZone", f"Subscribed zones: {', '.join(ZONES[region])}")
    chosen = _ZONE_FILTERS.select([(region, name) for name in names], parameters)
    zones: list[Value] = [
        {"RegionName": region, "ZoneName": name, "State": "available", "ZoneType": "availability-zone"}
        for region, name in chosen
    ]
    return {"AvailabilityZones": zones}


def regions(request: RequestContext) -> Members:
    parameters = request.parameters
    names = parameters.texts("RegionNames") or list(ZONES)
    for name in names:
        if name not in ZONES:
            raise errors.invalid_value(name, "region")
    regions: list[Value] = [
        {"RegionName": name, "Endpoint": f"ec2.{name}.amazonaws.com", "OptInStatus": "opt-in-not-required"}
        for name in _REGION_FILTERS.select(names, parameters)
    ]
    return {"Regions": regions}


def _named(
    request: RequestContext,
    parameter: str,
    kept: Mapping[str, Kept],
    find: Callable[[State, Scope, str], Kept],
) -> list[Kept]:
    """Those that the request names, where one that does not exist is an error for all; without names, all."""
    ids = request.parameters.texts(parameter)
    if ids:
        return [find(request.seen, request.scope, item) for item in ids]
    return [item for item in kept.values() if item.scope == request.scope]
