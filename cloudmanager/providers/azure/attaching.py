"""Attaches disks to this machine. What Azure says of the machine is the truth, not what a call returns."""

import uuid

from cloudmanager.core.errors import CloudUnavailable, DiskInUse, NameClash, WrongZone
from cloudmanager.core.model import Access, Attachment, AttachPlan, Disk, Node
from cloudmanager.providers._slots import Slots
from cloudmanager.providers._waiting import TimedOut
from cloudmanager.providers.azure.compute import Compute
from cloudmanager.providers.azure.deadline import Deadline
from cloudmanager.providers.azure.facts import DataDisk, MachineFacts, Place
from cloudmanager.providers.azure.resource_id import ResourceId
from cloudmanager.providers.azure.turn import Turn

LUNS = range(63, -1, -1)
"""From the top: people, and Azure itself, take the lowest one that is free."""
AGREEMENT_SECONDS = 30.0
"""How long what Azure says of a machine may lag behind an operation that has ended."""


class Attaching:
    """Attaches to one machine."""

    def __init__(self, compute: Compute, machine: ResourceId, slots: Slots, turn: Turn) -> None:
        self._compute = compute
        self._machine = machine
        self._slots = slots
        self._turn = turn

    def plan(self, disk: Disk, id: ResourceId, node: Node) -> AttachPlan:
        """Looks at the machine under the lock that LUNs are chosen under. Raises DiskInUse, WrongZone, AttachLimit."""
        with self._slots.locked() as memory:
            machine = self._compute.machine(self._machine)
            if entry := machine.entry(id):
                return _plan(disk, node, str(entry.lun), is_present=True)
            self._refuse_hopeless(disk, id, machine)
            taken = {str(entry.lun) for entry in machine.data_disks}
            return _plan(disk, node, memory.choose(map(str, LUNS), taken), is_present=False)

    def attach(self, plan: AttachPlan, id: ResourceId, deadline: Deadline) -> Attachment:
        """Changes nothing when the disk is attached already."""
        with self._turn.taken(deadline):
            entry = self._found(id, deadline)
            if entry is None:
                self._change(plan, id, deadline)
                entry = self._confirmed(plan, id, deadline)
        is_ours = str(entry.lun) == plan.slot and not plan.is_present
        request_id = plan.request_id if is_ours else ""
        return Attachment(plan.disk, plan.node, Access.READ_WRITE, str(entry.lun), request_id)

    def _refuse_hopeless(self, disk: Disk, id: ResourceId, machine: MachineFacts) -> None:
        if disk.location and Place.parse(disk.location).excludes(machine.place):
            raise WrongZone(
                f"{disk.id} is in {disk.location} and this machine in {machine.place}: make a snapshot, and from it a "
                "disk here."
            )
        if not disk.held_by:
            return
        found = self._compute.disk(id)  # whoever held it when it was described may have let go
        others = found.others(self._machine)
        if len(others) >= found.max_shares:
            raise DiskInUse(
                f"{disk.id} is attached to {others[0].name}: detach it there, or make a snapshot and from it a disk.",
                holder=others[0].name,
            )

    def _found(self, id: ResourceId, deadline: Deadline) -> DataDisk | None:
        """The disk's entry when it is attached, None when it is not; waits while a pending change may alter that."""

        def look() -> tuple[DataDisk | None] | None:
            machine = self._compute.machine(self._machine)
            entry = machine.entry(id)
            if entry is None:
                return (None,) if machine.is_settled else None
            if entry.is_leaving:
                _refuse_failed_detach(machine, entry)
                return None
            return (entry,) if self._is_attached(machine, id) else None

        try:
            (entry,) = deadline.wait_for(look)
        except TimedOut:
            raise CloudUnavailable(
                f"For {deadline.seconds:g} s, another change to {self._machine.name} has not ended; Azure makes one at "
                "a time."
            ) from None
        return entry

    def _is_attached(self, machine: MachineFacts, id: ResourceId) -> bool:
        """An entry proves it where the last change has succeeded; else the disk itself must name its owner."""
        if machine.is_settled and not machine.has_failed:
            return True
        return self._compute.disk(id).is_owned_by(self._machine)

    def _change(self, plan: AttachPlan, id: ResourceId, deadline: Deadline) -> None:
        if plan.is_present:
            raise NameClash(f"Somebody else had attached {plan.disk.id}, and has detached it.")
        try:
            self._compute.attach(self._machine, id, int(plan.slot), deadline.left)
        except DiskInUse as error:
            if (error.holder or "").casefold() != self._machine.name.casefold():
                raise
            # somebody attached it to this very machine a moment ago: what the machine says counts

    def _confirmed(self, plan: AttachPlan, id: ResourceId, deadline: Deadline) -> DataDisk:
        def look() -> DataDisk | None:
            entry = self._compute.machine(self._machine).entry(id)
            return None if entry is None or entry.is_leaving else entry

        try:
            return deadline.wait_for(look, AGREEMENT_SECONDS)
        except TimedOut:
            raise CloudUnavailable(
                f"Azure reports that {plan.disk.id} was attached, and says that {self._machine.name} does not have it."
            ) from None


def _refuse_failed_detach(machine: MachineFacts, entry: DataDisk) -> None:
    if machine.is_settled:
        raise CloudUnavailable(
            f"The last detach of {entry.disk.name} from {machine.id.name} failed: it must be detached before it can be "
            "attached again.",
            cloud_code="AttachDiskWhileBeingDetached",
        )


def _plan(disk: Disk, node: Node, slot: str, *, is_present: bool) -> AttachPlan:
    return AttachPlan(disk, node, Access.READ_WRITE, str(uuid.uuid4()), slot, is_present)
