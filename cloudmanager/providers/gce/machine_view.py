"""This instance as Compute Engine describes it: which disks it has, and what is being done to it."""

import uuid
from dataclasses import dataclass

from google.cloud import compute_v1

from cloudmanager.core.errors import CloudUnavailable
from cloudmanager.core.model import Access
from cloudmanager.providers._shared_look import SharedLook
from cloudmanager.providers._waiting import Deadline
from cloudmanager.providers.gce.api import Compute
from cloudmanager.providers.gce.resource_id import ResourceId

CONFIRM_SECONDS = 30.0
"""How far Compute Engine's description may lag behind an operation that has ended."""
_CHANGES = frozenset({"attachDisk", "detachDisk"})


@dataclass(frozen=True)
class Slot:
    """A disk's place on the instance."""

    device_name: str
    access: Access
    """READ_ONLY or READ_WRITE."""
    is_boot: bool = False


@dataclass(frozen=True)
class View:
    """The instance at one moment."""

    link: str
    """Its self-link; empty when it does not exist."""
    slots: dict[str, Slot]
    """By the path of the disk. The path is all that an instance says of its disks."""
    machine_type: str = ""
    """`e2-medium`"""

    @property
    def exists(self) -> bool:
        return bool(self.link)


class MachineView:
    """Looks at the instance; never changes it."""

    def __init__(self, compute: Compute, instance: ResourceId) -> None:
        self._compute = compute
        self._instance = instance
        self._shared = SharedLook(self._look)
        self._boot: frozenset[str] | None = None

    def is_boot(self, disk: ResourceId) -> bool:
        """The instance, to which it is attached, runs from it. That never changes while it runs: one call."""
        if self._boot is None:
            view = self.look()
            self._boot = frozenset(path for path, slot in view.slots.items() if slot.is_boot)
        return disk.path in self._boot

    def look(self, max_age: float = 0.0) -> View:
        """As it was at most `max_age` seconds ago: one call at most, shared by those that look at the same time."""
        return self._shared.look(max_age)

    def _look(self) -> View:
        found = self._compute.instance(self._instance)
        if found is None:
            return View("", {})
        attached = (disk for disk in found.disks if disk.source)  # local SSDs have none
        slots = {ResourceId.from_link(disk.source).path: _slot(disk) for disk in attached}
        return View(found.self_link, slots, found.machine_type.rpartition("/")[2])

    def settle(self, deadline: Deadline, view: View | None = None) -> View:
        """As `look`, once no attach or detach is under way: a pending one would undo what is seen or done now.

        `view` is what was seen a moment ago. Raises CloudUnavailable when one is still under way at the deadline.
        """
        view = view or self.look()
        while view.exists and self._wait_for_changes(view, deadline):
            view = self.look()
        return view

    def is_changing(self, view: View) -> bool:
        """An attach or a detach is under way."""
        return bool(self._changes(view))

    def was_asked(self, link: str, request_id: str) -> bool:
        """Compute Engine has carried out an attach to the instance that was asked for under the id, or is about to.

        `link` is the instance's self-link.
        """
        first = (request_id, writable(request_id))
        return self._compute.was_asked(self._instance, link, (*first, *map(again, first)))

    def _wait_for_changes(self, view: View, deadline: Deadline) -> bool:
        """Waits for the operations that run; false when there are none. How they end is not ours to judge."""
        changes = self._changes(view)
        for change in changes:
            if self._compute.ended(change, deadline) is None:
                raise CloudUnavailable(
                    f"An earlier {change.operation_type} of this instance is still running after "
                    f"{deadline.seconds:g} s; nothing is done before it has ended."
                )
        return bool(changes)

    def _changes(self, view: View) -> list[compute_v1.Operation]:
        running = self._compute.pending(self._instance, view.link)
        return [operation for operation in running if operation.operation_type in _CHANGES]


def again(request_id: str) -> str:
    """The id of a second request by the same plan. Compute Engine answers a repeated id with what came of the first."""
    return str(uuid.uuid5(uuid.UUID(request_id), "again"))


def writable(request_id: str) -> str:
    """The id of the request that attaches read-write, where Compute Engine has refused to attach read-only."""
    return str(uuid.uuid5(uuid.UUID(request_id), "read-write"))


def _slot(disk: compute_v1.AttachedDisk) -> Slot:
    access = Access.READ_ONLY if disk.mode == "READ_ONLY" else Access.READ_WRITE
    return Slot(disk.device_name, access, bool(disk.boot))
