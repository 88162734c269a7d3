"""The SDK's models, reduced to facts."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

from azure.mgmt.compute import models

from cloudmanager.providers.azure.facts import DataDisk, DiskFacts, MachineFacts, Outcome, Place, SnapshotFacts
from cloudmanager.providers.azure.resource_id import ResourceId

_GIB = 1024**3


def machine(model: models.VirtualMachine, seen_at: datetime | None = None) -> MachineFacts:
    properties = model.properties or models.VirtualMachineProperties()
    profile = properties.storage_profile
    hardware = properties.hardware_profile
    return MachineFacts(
        _id(model.id),
        Place(model.location, next(iter(model.zones or []), "")),
        _text(hardware.vm_size if hardware else None),
        properties.provisioning_state or "",
        tuple(_entries(profile.data_disks or [] if profile else [])),
        seen_at,
        _os_disk(profile),
    )


def _os_disk(profile: models.StorageProfile | None) -> ResourceId | None:
    disk = profile.os_disk if profile else None
    return ResourceId.of(disk.managed_disk.id or "") if disk and disk.managed_disk else None


def clock(headers: Mapping[str, str]) -> datetime | None:
    """Azure's, when it answered (RFC 9110, 6.6.1)."""
    try:
        return parsedate_to_datetime(headers.get("Date", "")).astimezone(UTC)
    except ValueError:
        return None


def outcome(document: Mapping[str, str]) -> Outcome | None:
    """None of an operation that runs."""
    if not document.get("endTime"):
        return None
    started, ended = (datetime.fromisoformat(document[key]).astimezone(UTC) for key in ("startTime", "endTime"))
    return Outcome(document["status"].casefold() == "succeeded", started, ended)


def _entries(disks: Iterable[models.DataDisk]) -> Iterable[DataDisk]:
    """Disks without an id (unmanaged ones, in a storage account) take a LUN all the same."""
    for disk in disks:
        text = disk.managed_disk.id if disk.managed_disk else None
        id = ResourceId.of(text or "") or ResourceId("", "", "", disk.name or "")
        yield DataDisk(id, disk.lun, is_leaving=bool(disk.to_be_detached))


def disk(model: models.Disk) -> DiskFacts:
    properties = model.properties or models.DiskProperties({})
    size = properties.disk_size_bytes or (properties.disk_size_gb or 0) * _GIB
    owners = dict.fromkeys(filter(None, [model.managed_by, *(model.managed_by_extended or [])]))
    return DiskFacts(
        _id(model.id),
        Place(model.location, next(iter(model.zones or []), "") if len(model.zones or []) == 1 else ""),
        size,
        _text(model.sku.name if model.sku else None),
        _text(properties.disk_state),
        _unique(owners),
        properties.max_shares or 1,
        dict(model.tags or {}),
        _source(properties.creation_data),
        properties.time_created.astimezone(UTC) if properties.time_created else None,
        has_system=properties.os_type is not None,
        unique_id=properties.unique_id or "",
        said_sector_bytes=properties.creation_data.logical_sector_size if properties.creation_data else None,
        owned_since=properties.last_ownership_update_time.astimezone(UTC)
        if properties.last_ownership_update_time
        else None,
    )


def _unique(owners: Iterable[str]) -> tuple[ResourceId, ...]:
    found = {owner.key: owner for owner in map(_id, owners)}
    return tuple(found.values())


def snapshot(model: models.Snapshot) -> SnapshotFacts:
    properties = model.properties or models.SnapshotProperties({})
    percent = properties.completion_percent
    return SnapshotFacts(
        _id(model.id),
        Place(model.location),
        properties.disk_size_bytes or (properties.disk_size_gb or 0) * _GIB,
        properties.provisioning_state == "Succeeded" and (percent is None or percent >= 100),
        dict(model.tags or {}),
        _source(properties.creation_data),
        properties.creation_data.source_unique_id or "" if properties.creation_data else "",
    )


def _text(value: str | None) -> str:
    """Azure's text, which the SDK may have made a member of an enum."""
    return str(value.value) if isinstance(value, Enum) else value or ""


def _source(creation: models.CreationData | None) -> ResourceId | None:
    return ResourceId.of(creation.source_resource_id or "") if creation else None


def _id(text: str | None) -> ResourceId:
    """An owner that is no plain virtual machine (one of a scale set) has its last part for a name."""
    return ResourceId.of(text or "") or ResourceId("", "", "", (text or "").rpartition("/")[2])
