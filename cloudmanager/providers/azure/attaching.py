"""Attaches disks to this machine. What Azure says of the machine is the truth, not what a call returns."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from cloudmanager.core.errors import (
    CloudManagerError,
    CloudUnavailable,
    DiskInUse,
    DiskReplaced,
    NameClash,
    WrongZone,
)
from cloudmanager.core.model import Access, Attachment, AttachPlan, Disk, Node
from cloudmanager.providers._capacity import Capacity
from cloudmanager.providers._proofs import LatestProofs
from cloudmanager.providers._slots import Slots
from cloudmanager.providers._waiting import Deadline, TimedOut
from cloudmanager.providers.azure.api import Compute
from cloudmanager.providers.azure.change_lock import Turn
from cloudmanager.providers.azure.errors import is_unanswered
from cloudmanager.providers.azure.facts import DataDisk, DiskFacts, MachineFacts, Place
from cloudmanager.providers.azure.machine_view import AGREEMENT_SECONDS, MachineView
from cloudmanager.providers.azure.proof import UNPROVED, Accepted, Confirmed, Proofs, Requested
from cloudmanager.providers.azure.resource_id import ResourceId

_LUNS = range(63, -1, -1)
"""From the top: people, and Azure itself, take the lowest one that is free."""
Keep = Callable[[str], None]


class Attaching:
    """Attaches to one machine."""

    def __init__(
        self, compute: Compute, view: MachineView, machine: ResourceId, slots: Slots, turn: Turn, proofs: Proofs
    ) -> None:
        self._compute = compute
        self._view = view
        self._proofs = proofs
        self._answers = LatestProofs()
        self._machine = machine
        self._slots = slots
        self._turn = turn

    def plan(self, disk: Disk, id: ResourceId, node: Node) -> AttachPlan:
        """Looks at the machine under the lock that LUNs are chosen under.

        Raises DiskReplaced, DiskInUse, WrongZone, AttachLimit.
        """
        found = self._compute.disk(id)
        found.refuse_other(disk)
        with self._slots.locked() as memory:
            machine = self._view.look()
            if entry := machine.entry(id):
                return _plan(disk, node, str(entry.lun), is_present=True)
            self._refuse_hopeless(disk, found, machine)
            taken = {str(entry.lun) for entry in machine.data_disks}
            return _plan(disk, node, memory.choose(map(str, _LUNS), taken), is_present=False)

    def attach(self, plan: AttachPlan, id: ResourceId, deadline: Deadline, keep: Keep) -> Attachment:
        """Changes nothing when the disk is attached already. Raises DiskReplaced."""
        with self._turn.taken(deadline):
            plan = replace(plan, proof=self._answers.get(plan))
            machine, entry = self._found(id, deadline)
            found = self._compute.disk(id)
            found.refuse_other(plan.disk)
            is_done = False
            if entry is None:
                is_done = self._change(plan, id, deadline, machine, keep)
                entry = self._confirmed(plan, id, deadline) if is_done else self._carried_out(plan, id, deadline)
                found = self._same(plan, id, deadline, is_done=is_done)
                if is_done and (confirmed := Confirmed.after(machine.seen_at, found.owned_since)):
                    self._keep(plan, confirmed, keep)
                plan = replace(plan, proof=self._answers.get(plan))
        reason = "" if is_done else self._why(plan, found, entry, machine)
        attachment = replace(plan.attachment(), access=Access.READ_WRITE, slot=str(entry.lun))
        return replace(attachment, request_id="", reason=reason) if reason else attachment

    def _keep(self, plan: AttachPlan, proof: object, keep: Keep) -> None:
        self._answers.keep(plan, str(proof))
        keep(str(proof))

    def _why(self, plan: AttachPlan, found: DiskFacts, entry: DataDisk, machine: MachineFacts) -> str:
        """Why the disk that is there is not taken for the plan's; empty where it is."""
        if plan.is_present:
            return f"{plan.disk.id} was attached at LUN {entry.lun} before it was planned."
        if str(entry.lun) != plan.slot:
            return f"{plan.disk.id} is attached at LUN {entry.lun}, and was planned at LUN {plan.slot}."
        if self._proofs.proves(plan.proof, found, machine.seen_at):
            return ""
        return f"{plan.disk.id} is attached at LUN {entry.lun}, and {UNPROVED}"

    def _same(self, plan: AttachPlan, id: ResourceId, deadline: Deadline, *, is_done: bool) -> DiskFacts:
        """A disk that is attached cannot be deleted, so what has the name now is what was attached.

        Raises DiskReplaced, after undoing what was just done to another disk; `is_done`: it was this that attached it.
        """
        found = self._compute.disk(id)
        try:
            found.refuse_other(plan.disk)
        except DiskReplaced:
            if is_done:
                self._compute.detach(self._machine, id, deadline.left)
            raise
        return found

    def _refuse_hopeless(self, disk: Disk, found: DiskFacts, machine: MachineFacts) -> None:
        if disk.location and Place.parse(disk.location).excludes(machine.place):
            raise WrongZone(
                f"{disk.id} is in {disk.location} and this machine in {machine.place}: make a snapshot, and from it a "
                "disk here."
            )
        staying = sum(not entry.is_leaving for entry in machine.data_disks)
        Capacity(staying, self._compute.max_disks, "max_disks").refuse_full(str(disk.id))
        others = found.others(self._machine)
        if len(others) >= found.max_shares:
            raise DiskInUse(
                f"{disk.id} is attached to {others[0].name}: detach it there, or make a snapshot and from it a disk.",
                holder=others[0].name,
            )

    def _found(self, id: ResourceId, deadline: Deadline) -> tuple[MachineFacts, DataDisk | None]:
        """The disk's entry when it is attached, None when it is not; waits while a pending change may alter that."""

        def look() -> tuple[MachineFacts, DataDisk | None] | None:
            machine = self._view.look()
            entry = machine.entry(id)
            if entry is None:
                return (machine, None) if machine.is_settled else None
            if entry.is_leaving:
                _refuse_failed_detach(machine, entry)
                return None
            return (machine, entry) if self._is_attached(machine, id) else None

        try:
            return deadline.wait_for(look)
        except TimedOut:
            raise self._view.busy(deadline) from None

    def _is_attached(self, machine: MachineFacts, id: ResourceId) -> bool:
        """An entry proves it where the last change has succeeded; else the disk itself must name its owner."""
        if machine.is_settled and not machine.has_failed:
            return True
        return self._compute.disk(id).is_owned_by(self._machine)

    def _change(self, plan: AttachPlan, id: ResourceId, deadline: Deadline, machine: MachineFacts, keep: Keep) -> bool:
        """Whether Azure reports that the request has attached the disk. If not, it is attached all the same."""
        if plan.is_present:
            raise NameClash(f"Somebody else had attached {plan.disk.id}, and has detached it.")

        def accepted(operation: str) -> None:
            self._keep(plan, Accepted(operation), keep)

        asked = Requested(machine.seen_at or datetime.now(UTC))
        self._keep(plan, asked, keep)
        try:
            self._compute.attach(self._machine, id, int(plan.slot), deadline.left, accepted)
        except CloudManagerError as error:
            if is_unanswered(error) and self._view.look().entry(id) is not None:
                return False  # it is being carried out
            if self._answers.get(plan) == str(asked):
                self._keep(plan, "", keep)  # it was refused
            if not isinstance(error, DiskInUse) or (error.holder or "").casefold() != self._machine.name.casefold():
                raise
            return False  # somebody attached it to this machine a moment ago: look at the machine
        return True

    def _carried_out(self, plan: AttachPlan, id: ResourceId, deadline: Deadline) -> DataDisk:
        """By a request whose answer is not known: the entry is there as soon as it begins."""
        _, entry = self._found(id, deadline)
        if entry is None:
            raise CloudUnavailable(f"{plan.disk.id} was being attached, and is not attached now. It is tried again.")
        return entry

    def _confirmed(self, plan: AttachPlan, id: ResourceId, deadline: Deadline) -> DataDisk:
        def look() -> DataDisk | None:
            entry = self._view.look().entry(id)
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
