"""The Compute Engine provider: its hooks."""

import importlib
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from cloudmanager.core.errors import CloudError, DeviceNotReady, MissingExtra
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
from cloudmanager.providers.gce import locating
from cloudmanager.providers.gce.facts import disk_of
from cloudmanager.providers.gce.machine import ThisMachine
from cloudmanager.providers.gce.resource import Resource, parse_disk, parse_snapshot
from cloudmanager.providers.gce.settings import GceSettings

if TYPE_CHECKING:
    from google.cloud import compute_v1

    from cloudmanager.providers.gce.parts import Parts
    from cloudmanager.providers.gce.this_instance import View

MOST_FRESH_PLANS = 256


class GceProvider:
    """The disks of one project, attached to the instance that this runs on."""

    type: ClassVar[str] = "gce"
    Settings = GceSettings

    def __init__(self, name: str, settings: GceSettings) -> None:
        """Asks nobody anything yet. Raises MissingExtra."""
        _check_sdk()
        self._name = name
        self._settings = settings
        self._machine = ThisMachine(settings, name)
        self._locks = DiskLocks()
        self._fresh: deque[str] = deque(maxlen=MOST_FRESH_PLANS)
        """Request ids of plans that were made here and not carried out yet."""
        self._built: Parts | None = None
        self._building = threading.Lock()

    @hookimpl
    def node(self) -> Node:
        return self._machine.node()

    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        resource = self._named(disk_id.native)
        return self._disk(self._parts().compute.disk(resource))

    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        return self._parts().finder.find(query, page_token)

    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        resource, parts = self._named(disk.id.native), self._parts()
        plan = parts.attaching.plan(disk, resource, parts.modes.access(disk, resource, access))
        self._fresh.append(plan.request_id)
        return plan

    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        resource, parts = self._named(plan.disk.id.native), self._parts()
        with self._locks.locked(plan.disk.canonical_id):
            return parts.attaching.attach(plan, resource, is_fresh=not plan.is_present and self._takes_fresh(plan))

    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        instance = self._parts().instance
        view = instance.look()
        slot = view.slots.get(self._named(disk.id.native).path)
        if slot is not None:
            settings = self._settings
            return locating.locate(settings.block_devices, slot.device_name, settings.device_timeout_seconds)
        self._check_exists(view)
        if instance.is_changing(view):
            raise DeviceNotReady(f"{disk.id} is not attached yet, and an attach or detach is under way.")
        return NotAttached(f"{disk.id} is not among the disks of {self._machine.node().name}.")

    @hookimpl
    def locate_all(self, disks: Sequence[Disk]) -> Mapping[DiskId, Device]:
        """One call. What the instance does not have is left to `locate`, which knows what is under way."""
        view = self._parts().instance.look()
        self._check_exists(view)
        paths = {disk.id: self._named(disk.id.native).path for disk in disks}
        slots = {id: view.slots[path].device_name for id, path in paths.items() if path in view.slots}
        there = locating.present(self._settings.block_devices, set(slots.values()))
        return {id: there[name] for id, name in slots.items() if name in there}

    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        resource, parts = self._named(attachment.disk.id.native), self._parts()
        with self._locks.locked(attachment.disk.canonical_id):
            parts.detaching.detach(attachment, resource)

    @hookimpl
    def snapshot(self, disk: Disk, name: str) -> Snapshot:
        return self._parts().copies.snapshot(self._named(disk.id.native), name)

    @hookimpl
    def restore(self, snapshot: Snapshot, name: str) -> Disk:
        source = parse_snapshot(snapshot.id.native, self._machine.resource().project)
        return self._disk(self._parts().copies.restore(source, name))

    @hookimpl
    def delete(self, item: Disk | Snapshot) -> None:
        copies = self._parts().copies
        if isinstance(item, Disk):
            copies.delete_disk(self._named(item.id.native))
        else:
            copies.delete_snapshot(parse_snapshot(item.id.native, self._machine.resource().project))

    @hookimpl
    def diagnose(self) -> Iterable[Finding]:
        return self._parts().diagnose()

    def _check_exists(self, view: "View") -> None:
        """That Compute Engine does not know this machine by its name says nothing of its disks."""
        if not view.exists:
            raise CloudError(
                f"Compute Engine has no instance {self._machine.node().native_id}. If it was renamed, correct or "
                f"remove instance in [providers.{self._name}], and start the service again."
            )

    def _named(self, native: str) -> Resource:
        me = self._machine.resource()
        return parse_disk(native, me.project, me.location)

    def _disk(self, found: "compute_v1.Disk") -> Disk:
        disk = disk_of(self._name, self._machine.resource().project, found, self._machine.node())
        self._parts().modes.remember(disk.canonical_id, found)
        return disk

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
                from cloudmanager.providers.gce.parts import Parts  # noqa: PLC0415 - imports the SDK

                self._built = Parts(self._name, self._settings, self._machine.node())
            return self._built


def _check_sdk() -> None:
    try:
        importlib.import_module("google.cloud.compute_v1")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "Providers of type gce need google-cloud-compute: pip install 'cloudmanager[gce]'"
        ) from error
