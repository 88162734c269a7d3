"""Which IAM permissions each method needs, as the reference of each method in Google's documentation lists them."""

from collections.abc import Mapping
from typing import Any

from cloudmanager.testing.cloud.gce.errors import refusal

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "instances.get": ("instances.get",),
    "instances.attachDisk": ("instances.attachDisk",),
    "instances.detachDisk": ("instances.detachDisk",),
    "machineTypes.get": ("machineTypes.get",),
    "disks.get": ("disks.get",),
    "disks.list": ("disks.list",),
    "disks.aggregatedList": ("disks.list",),
    "disks.insert": ("disks.create",),
    "disks.delete": ("disks.delete",),
    "disks.createSnapshot": ("disks.createSnapshot", "snapshots.create"),
    "regionDisks.get": ("disks.get",),
    "regionDisks.list": ("disks.list",),
    "regionDisks.insert": ("disks.create",),
    "regionDisks.delete": ("disks.delete",),
    "snapshots.insert": ("disks.createSnapshot", "snapshots.create"),
    "snapshots.get": ("snapshots.get",),
    "snapshots.delete": ("snapshots.delete",),
    "zones.list": ("zones.list",),
    "zoneOperations.get": ("zoneOperations.get",),
    "zoneOperations.wait": ("zoneOperations.get",),
    "zoneOperations.list": ("zoneOperations.list",),
    "regionOperations.get": ("regionOperations.get",),
    "regionOperations.wait": ("regionOperations.get",),
    "globalOperations.get": ("globalOperations.get",),
    "globalOperations.wait": ("globalOperations.get",),
}


def check(method: str, body: Mapping[str, Any], project: str, granted: frozenset[str]) -> None:
    """Raises the refusal that names the first permission which is missing. `granted` has `compute.…` names."""
    for permission in (f"compute.{name}" for name in _needed(method, body)):
        if permission not in granted:
            raise refusal(403, "forbidden", f"Required '{permission}' permission for 'projects/{project}'")


def _needed(method: str, body: Mapping[str, Any]) -> tuple[str, ...]:
    needed = _NEEDED[method]
    if method == "instances.attachDisk":
        needed += ("disks.useReadOnly",) if body.get("mode") == "READ_ONLY" else ("disks.use",)
    if "labels" in body:
        needed += ("snapshots.setLabels",) if "napshot" in method else ("disks.setLabels",)
    if "sourceSnapshot" in body:
        needed += ("snapshots.useReadOnly",)
    return needed
