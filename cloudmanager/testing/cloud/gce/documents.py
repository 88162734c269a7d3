"""What Compute Engine shows of its resources."""

from collections.abc import Mapping
from datetime import UTC, datetime

from cloudmanager.testing.cloud.gce.state import (
    HOST,
    AttachedDisk,
    Cloud,
    Disk,
    Instance,
    Operation,
    Snapshot,
    Status,
    disk_limit,
)

Document = dict[str, object]


def link(path: str) -> str:
    return HOST + path


def disk(item: Disk, users: Mapping[str, list[str]]) -> Document:
    document: Document = {
        "kind": "compute#disk",
        "id": str(item.id),
        "name": item.name,
        "creationTimestamp": _time(item.created_at),
        "sizeGb": str(item.size_gb),
        "status": item.status,
        "selfLink": link(item.path),
        "type": link(f"projects/{item.project}/{item.scope}/diskTypes/{item.type}"),
        "physicalBlockSizeBytes": "4096",
        "labelFingerprint": "42WmSpB8rSM=",
        **_scope(item.project, item.scope),
    }
    optional: Document = {
        "labels": item.labels,
        "description": item.description,
        "users": [link(user) for user in users.get(item.path, ())],
        "replicaZones": [link(f"projects/{item.project}/zones/{zone}") for zone in item.replica_zones],
        "sourceSnapshot": link(item.source_snapshot) if item.source_snapshot else "",
        "accessMode": item.access_mode if item.type.startswith("hyperdisk") else "",
    }
    return document | {name: value for name, value in optional.items() if value}


def instance(item: Instance, cloud: Cloud) -> Document:
    zone = f"projects/{item.project}/zones/{item.zone}"
    return {
        "kind": "compute#instance",
        "id": str(item.id),
        "name": item.name,
        "status": item.status,
        "selfLink": link(item.path),
        "zone": link(zone),
        "machineType": link(f"{zone}/machineTypes/{item.machine_type}"),
        "disks": [_attached(disk_, item, cloud) for disk_ in item.disks],
    }


def _attached(item: AttachedDisk, holder: Instance, cloud: Cloud) -> Document:
    return {
        "kind": "compute#attachedDisk",
        "type": "PERSISTENT",
        "mode": item.mode.value,
        "source": link(item.source),
        "deviceName": item.device_name,
        "index": item.index,
        "boot": item.boot,
        "autoDelete": item.boot,
        "interface": holder.interface,
        "diskSizeGb": str(cloud.disks[item.source].size_gb),
    }


def snapshot(item: Snapshot) -> Document:
    document: Document = {
        "kind": "compute#snapshot",
        "id": str(item.id),
        "name": item.name,
        "status": item.status,
        "creationTimestamp": _time(item.created_at),
        "selfLink": link(item.path),
        "sourceDisk": link(item.source),
        "sourceDiskId": str(item.source_id),
        "diskSizeGb": str(item.size_gb),
    }
    return document | ({"labels": item.labels} if item.labels else {})


def operation(item: Operation) -> Document:
    document: Document = {
        "kind": "compute#operation",
        "id": str(item.id),
        "name": item.name,
        "operationType": item.type,
        "targetLink": link(item.target),
        "targetId": str(item.target_id),
        "status": item.status.value,
        "progress": 100 if item.status is Status.DONE else 0,
        "user": "worker@emulated.iam.gserviceaccount.com",
        "insertTime": _time(item.started_at),
        "startTime": _time(item.started_at),
        "selfLink": link(item.path),
        **_scope(item.project, item.scope),
    }
    if item.request_id:
        document["clientOperationId"] = item.request_id
    if item.ended_at is not None:
        document["endTime"] = _time(item.ended_at)
    if item.error is not None:
        document["error"] = {"errors": [{"code": item.error.code, "message": item.error.message}]}
        document["httpErrorStatusCode"] = item.http_status
        document["httpErrorMessage"] = "BAD REQUEST" if item.http_status == 400 else "FORBIDDEN"
    return document


def zone(project: str, name: str, number: int) -> Document:
    return {
        "kind": "compute#zone",
        "id": str(number),
        "name": name,
        "status": "UP",
        "region": link(f"projects/{project}/regions/{name.rpartition('-')[0]}"),
        "selfLink": link(f"projects/{project}/zones/{name}"),
    }


def machine_type(project: str, in_zone: str, name: str) -> Document:
    return {
        "kind": "compute#machineType",
        "name": name,
        "zone": in_zone,
        "maximumPersistentDisks": disk_limit(name),
        "selfLink": link(f"projects/{project}/zones/{in_zone}/machineTypes/{name}"),
    }


def _scope(project: str, scope: str) -> Document:
    kind, _, name = scope.partition("/")
    return {kind.removesuffix("s"): link(f"projects/{project}/{scope}")} if name else {}


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
