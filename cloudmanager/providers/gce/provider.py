"""The Compute Engine provider: its hooks."""

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from cloudmanager.core.errors import CloudError, DeviceNotReady
from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.core.model import (
    Access,
    Attachment,
    AttachPlan,
    Device,
    Disk,
    DiskId,
    Finding,
    Node,
    NotAttached,
    Page,
    Query,
    Snapshot,
)
from cloudmanager.providers._disk_locks import DiskLocks
from cloudmanager.providers._errors import require_sdk
from cloudmanager.providers.gce import locating
from cloudmanager.providers.gce.facts import disk_of, incarnation
from cloudmanager.providers.gce.machine import ThisMachine
from cloudmanager.providers.gce.resource_id import (
    DEFAULT_UNIVERSE,
    ResourceId,
    is_bare,
    is_link,
    parse_disk,
    parse_snapshot,
)
from cloudmanager.providers.gce.settings import GceSettings

if TYPE_CHECKING:
    from google.cloud import compute_v1

    from cloudmanager.providers.gce.machine_view import View
    from cloudmanager.providers.gce.wiring import Parts

_MOST_FRESH_PLANS = 256


class GceProvider:
    """The disks of one project, attached to the instance that this runs on."""

    type: ClassVar[str] = "gce"
    Settings = GceSettings

    def __init__(self, name: str, settings: GceSettings) -> None:
        """Makes no call yet. Raises MissingExtra."""
        require_sdk(["google.cloud.compute_v1"], "gce")
        self._name = name
        self._settings = settings
        self._machine = ThisMachine(settings, name)
        self._locks = DiskLocks()
        self._fresh: deque[str] = deque(maxlen=_MOST_FRESH_PLANS)
        """Request ids of plans that were made here and not carried out yet."""
        self._proven: dict[str, tuple[str, str]] = {}
        """Path of a disk → the device name under which it was attached or located last, and its number."""
        self._built: Parts | None = None
        self._building = threading.Lock()

    @hookimpl
    def node(self) -> Node:
        return self._machine.node()

    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        resource, parts = self._named(disk_id.native), self._parts()
        found = parts.listing.named(resource.name) if is_bare(disk_id.native) else parts.compute.disk(resource)
        return self._disk(found, by_number=resource.is_numbered)

    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        return self._parts().listing.find(query, page_token)

    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        plan = self._parts().attaching.plan(disk, self._resource(disk), access)
        self._fresh.append(plan.request_id)
        return plan

    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        resource, parts = self._resource(plan.disk), self._parts()
        with self._locks.locked(plan.disk.canonical_id):
            is_fresh = not plan.is_present and self._takes_fresh(plan)
            attachment = parts.attaching.attach(plan, resource, is_fresh=is_fresh)
        self._proven[resource.path] = (attachment.slot, plan.disk.incarnation)
        return attachment

    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        instance, resource = self._parts().instance, self._resource(disk)
        if (unchanged := self._unchanged(disk, resource)) is not None:
            return unchanged
        view = instance.look()
        slot = view.slots.get(resource.path)
        if slot is not None:
            return self._located(disk, resource, slot.device_name)
        self._check_exists(view)
        if instance.is_changing(view):
            raise DeviceNotReady(f"{disk.id} is not attached yet, and an attach or detach is under way.")
        return NotAttached(f"{disk.id} is not among the disks of {self._machine.node().name}.")

    @hookimpl
    def locate_all(self, disks: Sequence[Disk]) -> Mapping[DiskId, Device]:
        """One call, and only when the last description is old, or a device is missing.

        What the instance does not have is left to `locate`, which knows what is under way.

        So is what was not found under its present device name before: a name can be another disk's by now. A device
        name of ours belongs to no other disk, so the disk that was found under it is there.
        """
        instance, paths = self._parts().instance, {disk.id: self._resource(disk).path for disk in disks}
        located = self._present(paths, instance.look(self._settings.look_seconds))
        return located if len(located) == len(paths) else self._present(paths, instance.look())

    def _present(self, paths: Mapping[DiskId, str], view: "View") -> Mapping[DiskId, Device]:
        self._check_exists(view)
        slots = {id: view.slots[path].device_name for id, path in paths.items() if path in view.slots}
        there = locating.present(self._settings.block_devices, set(slots.values()))
        proven = {id: self._proven.get(paths[id], ("", "")) for id in slots}
        return {
            id: replace(there[name], incarnation=proven[id][1] if name.startswith(locating.OUR_NAMES) else "")
            for id, name in slots.items()
            if name in there and proven[id][0] == name
        }

    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        resource, parts = self._resource(attachment.disk), self._parts()
        with self._locks.locked(attachment.disk.canonical_id):
            parts.detaching.detach(attachment, resource)

    @hookimpl
    def snapshot(self, disk: Disk, name: str) -> Snapshot:
        return self._parts().copies.snapshot(disk, self._resource(disk), name)

    @hookimpl
    def restore(self, snapshot: Snapshot, name: str) -> Disk:
        source = self._snapshot(snapshot)
        return self._disk(self._parts().copies.restore(source, name))

    @hookimpl
    def delete(self, item: Disk | Snapshot) -> None:
        copies = self._parts().copies
        if isinstance(item, Disk):
            copies.delete_disk(item, self._resource(item))
        else:
            copies.delete_snapshot(self._snapshot(item))

    @hookimpl
    def diagnose(self) -> Iterable[Finding]:
        return self._parts().diagnose()

    def _unchanged(self, disk: Disk, resource: ResourceId) -> Device | None:
        """The device under a name of ours by which the disk was proved before: nothing else ever has that name."""
        name, number = self._proven.get(resource.path, ("", ""))
        recent = self._parts().instance.look(self._settings.look_seconds / 30)
        slot = recent.slots.get(resource.path)
        is_same = slot is not None and slot.device_name == name and number == disk.incarnation != ""
        if not is_same or not name.startswith(locating.OUR_NAMES):
            return None
        device = locating.locate(self._settings.block_devices, name, self._settings.device_timeout_seconds)
        return replace(device, incarnation=number)

    def _check_exists(self, view: "View") -> None:
        """That Compute Engine does not know this machine by its name says nothing of its disks."""
        if not view.exists:
            raise CloudError(
                f"Compute Engine has no instance {self._machine.node().native_id}. If it was renamed, correct or "
                f"remove instance in [providers.{self._name}], and start the service again."
            )

    def _named(self, native: str) -> ResourceId:
        me = self._machine.resource()
        return parse_disk(native, me.project, me.location, self._universe(native))

    def _universe(self, native: str) -> str:
        """That of the credentials is only asked for where a link is to be compared with it."""
        return self._parts().compute.universe if is_link(native) else DEFAULT_UNIVERSE

    def _snapshot(self, snapshot: Snapshot) -> ResourceId:
        native = snapshot.id.native
        return parse_snapshot(native, self._machine.resource().project, self._universe(native))

    def _resource(self, disk: Disk) -> ResourceId:
        """By its canonical id: the disk's own name, also where it was asked for by number or the settings changed."""
        try:
            return ResourceId.of_canonical(disk.canonical_id)
        except ValueError:
            return self._named(disk.id.native)

    def _located(self, disk: Disk, resource: ResourceId, device_name: str) -> Device:
        settings = self._settings
        device = locating.locate(settings.block_devices, device_name, settings.device_timeout_seconds)
        # Last: a name is given to no other disk while its own is attached, so it still names what the device is.
        found = self._parts().attaching.present(disk, resource)
        self._proven[resource.path] = (device_name, incarnation(found))
        return replace(device, incarnation=incarnation(found))

    def _disk(self, found: "compute_v1.Disk", *, by_number: bool = False) -> Disk:
        project = self._machine.resource().project
        is_boot = self._parts().instance.is_boot
        return disk_of(self._name, project, found, self._machine.node(), is_boot, by_number=by_number)

    def _takes_fresh(self, plan: AttachPlan) -> bool:
        """Once: whatever becomes of the first try, the next one looks first."""
        try:
            self._fresh.remove(plan.request_id)
        except ValueError:
            return False
        return True

    def _parts(self) -> "Parts":
        with self._building:
            if self._built is None:
                from cloudmanager.providers.gce.wiring import Parts  # noqa: PLC0415 - imports the SDK

                self._built = Parts(self._name, self._settings, self._machine.node())
            return self._built
