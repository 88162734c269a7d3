"""`instances` and `machineTypes`: what attaches and detaches disks."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from cloudmanager.testing.cloud.gce import documents, errors
from cloudmanager.testing.cloud.gce.context import RequestContext
from cloudmanager.testing.cloud.gce.operations import Operations
from cloudmanager.testing.cloud.gce.state import (
    AttachedDisk,
    Cloud,
    Disk,
    Instance,
    Mode,
    OperationError,
    disk_limit,
    path_of,
)
from cloudmanager.testing.cloud.guest import Guest
from cloudmanager.testing.cloud.hardware import Hardware, NvmeNamespace, ScsiDisk
from cloudmanager.testing.cloud.wire import Response

_ATTACH_SECONDS = 3.0
_DETACH_SECONDS = 5.0
_VENDOR_DATA_OFFSET = 384
_PCI_VENDOR_GOOGLE = 0x1AE0
Plug = Callable[[Instance, Disk, AttachedDisk], None]
Unplug = Callable[[Instance, AttachedDisk], None]


class Instances:
    """Handlers; they are called under the emulator's lock."""

    def __init__(self, cloud: Cloud, operations: Operations, plug: Plug, unplug: Unplug) -> None:
        self._cloud = cloud
        self._operations = operations
        self._plug = plug
        self._unplug = unplug

    def get(self, context: RequestContext) -> Response:
        return Response.of_json(200, documents.instance(_find(context, context.seen), context.seen))

    def get_machine_type(self, context: RequestContext) -> Response:
        name = context.parameters["machineType"]
        if not re.fullmatch(r"[a-z]\w*(-\w+)+", name):
            raise errors.not_found(context.path("machineTypes", "machineType"))
        return Response.of_json(200, documents.machine_type(context.project, context.parameters["zone"], name))

    def attach_disk(self, context: RequestContext) -> Response:
        instance = _find(context, self._cloud)
        disk = self._source(context)
        _check_place(instance, disk)
        if not disk.is_regional and _wants_force(context):
            raise errors.refusal(400, "badRequest", "Force attach is only supported for regional disks.")
        mode = Mode(context.body.get("mode", Mode.READ_WRITE))
        _check_mode(disk, mode)
        if disk.status != "READY":
            raise errors.not_ready(disk.path)
        if user := self._excluding_user(disk, instance, mode, force=_wants_force(context)):
            raise errors.in_use(disk.path, user)
        device_name = self._device_name(context, instance)
        return self._operations.start(
            context,
            "attachDisk",
            (instance.path, instance.id),
            lambda: self._attach(instance, disk, device_name, mode, force=_wants_force(context)),
            seconds=_ATTACH_SECONDS,
            disk=disk.path,
        )

    def detach_disk(self, context: RequestContext) -> Response:
        instance = _find(context, self._cloud)
        device_name = context.parameters["deviceName"]
        attached = instance.named(device_name)
        if attached is None:
            raise errors.invalid("deviceName", device_name, f"No attached disk found with device name '{device_name}'")
        if attached.boot:
            raise errors.refusal(400, "badRequest", "The boot disk cannot be detached while the instance runs.")
        if any(self._cloud.running(attached.source)):
            raise errors.not_ready(attached.source)
        return self._operations.start(
            context,
            "detachDisk",
            (instance.path, instance.id),
            lambda: self.detach(instance, attached),
            seconds=_DETACH_SECONDS,
            disk=attached.source,
        )

    def attach(self, instance: Instance, disk: Disk, device_name: str, mode: Mode, *, boot: bool = False) -> None:
        """Without asking whether it may."""
        index = next(n for n in range(len(instance.disks) + 1) if n not in {item.index for item in instance.disks})
        attached = AttachedDisk(disk.path, device_name, mode, index, boot)
        instance.disks.append(attached)
        self._plug(instance, disk, attached)

    def detach(self, instance: Instance, attached: AttachedDisk) -> None:
        if attached in instance.disks:
            instance.disks.remove(attached)
            self._unplug(instance, attached)

    def _attach(
        self, instance: Instance, disk: Disk, device_name: str, mode: Mode, *, force: bool
    ) -> OperationError | None:
        """At the end of the operation: much may have happened since it was accepted."""
        if user := self._excluding_user(disk, instance, mode, force=force):
            return OperationError("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", errors.in_use_message(disk.path, user))
        if instance.named(device_name) is not None:
            return OperationError("INVALID_FIELD_VALUE", _taken(device_name))
        limit = disk_limit(instance.machine_type)
        if len(instance.disks) >= limit:
            return OperationError(
                "QUOTA_EXCEEDED",
                f"Exceeded limit 'maximum_persistent_disks' on resource '{instance.name}'. Limit: {limit:.1f}",
            )
        if force:
            for holder, attached in list(self._cloud.holders(disk.path)):
                self.detach(holder, attached)
        self.attach(instance, disk, device_name, mode)
        return None

    def _source(self, context: RequestContext) -> Disk:
        source = context.body.get("source")
        if source is None:
            raise errors.refusal(400, "required", "Required field 'resource.source' not specified")
        path = path_of(source, context.project)
        if path is None:
            raise errors.invalid("resource.source", source, "The URL is malformed.")
        if path not in self._cloud.disks:
            raise errors.not_found(path)
        return self._cloud.disks[path]

    def _excluding_user(self, disk: Disk, instance: Instance, mode: Mode, *, force: bool) -> str:
        """Path of the instance whose attachment does not allow another one; empty when there is none.

        Readers do not exclude each other, and nor do the users of a disk with access mode READ_WRITE_MANY.
        """
        for holder, attached in self._cloud.holders(disk.path):
            shares = mode is Mode.READ_ONLY and attached.mode is Mode.READ_ONLY
            if holder is instance or not (shares or force or disk.access_mode == "READ_WRITE_MANY"):
                return holder.path
        return ""

    def _device_name(self, context: RequestContext, instance: Instance) -> str:
        given = context.body.get("deviceName")
        if given is None:
            return next(name for n in range(1, 200) if instance.named(name := f"persistent-disk-{n}") is None)
        if not re.fullmatch(r"\w[\w.-]{0,254}", given):
            raise errors.invalid("resource.deviceName", given, r"Must be a match of regex '\w[\w.-]{0,254}'")
        if instance.named(given) is not None:
            raise errors.invalid("resource.deviceName", given, _taken(given))
        return str(given)


def hardware(instance: Instance, attached: AttachedDisk) -> Hardware:
    """How the guest sees the disk: Google's SCSI disk, or a namespace of the one NVMe controller."""
    if instance.interface == "SCSI":
        return ScsiDisk("Google", "PersistentDisk", attached.device_name, (0, 0, attached.index + 1, 0))
    vendor_data = json.dumps({"device_name": attached.device_name, "disk_type": "PERSISTENT"}).encode()
    identify = bytearray(4096)
    identify[_VENDOR_DATA_OFFSET : _VENDOR_DATA_OFFSET + len(vendor_data)] = vendor_data
    return NvmeNamespace(
        "nvme_card-pd",
        "nvme_card-pd",
        nsid=attached.index + 1,
        controller=0,
        pci_vendor=_PCI_VENDOR_GOOGLE,
        identify_namespace=bytes(identify),
        token=attached.device_name,
    )


def plug(guest: Guest, instance: Instance, attached: AttachedDisk, disk_file: Path) -> None:
    """Makes the attached disk appear in the guest, with the links that Google's udev rules make."""
    name = attached.device_name
    links = [f"disk/by-id/google-{name}"]
    if instance.interface == "SCSI":
        links.append(f"disk/by-id/scsi-0Google_PersistentDisk_{name}")
    is_read_only = attached.mode is Mode.READ_ONLY
    guest.plug(name, disk_file, hardware(instance, attached), links, read_only=is_read_only)


def _find(context: RequestContext, cloud: Cloud) -> Instance:
    path = context.path("instances", "instance")
    if path in cloud.instances:
        return cloud.instances[path]
    by_id = (item for item in cloud.instances.values() if str(item.id) == context.parameters["instance"])
    if found := next(by_id, None):
        return found
    raise errors.not_found(path)


def _check_place(instance: Instance, disk: Disk) -> None:
    is_near = instance.zone in disk.replica_zones if disk.is_regional else disk.scope == f"zones/{instance.zone}"
    if instance.project != disk.project or not is_near:
        raise errors.invalid(
            "resource.source", documents.link(disk.path), "Disk must be in the same zone as the instance."
        )


def _check_mode(disk: Disk, mode: Mode) -> None:
    """A Hyperdisk is shared for reading only by its access mode, which Hyperdisk ML alone can have.

    https://cloud.google.com/compute/docs/disks/sharing-disks-between-vms
    """
    if not disk.type.startswith("hyperdisk"):
        return
    if mode is Mode.READ_ONLY and disk.access_mode != "READ_ONLY_MANY":
        raise errors.refusal(400, "badRequest", f"{disk.type} disk type cannot be attached in read-only mode.")
    if mode is Mode.READ_WRITE and disk.access_mode == "READ_ONLY_MANY":
        raise errors.invalid("resource.mode", mode, "A disk with access mode READ_ONLY_MANY is attached read-only.")


def _wants_force(context: RequestContext) -> bool:
    return bool(context.body.get("forceAttach")) or context.parameters.get("forceAttach", "").lower() == "true"


def _taken(device_name: str) -> str:
    return f"The device name '{device_name}' is already being used."
