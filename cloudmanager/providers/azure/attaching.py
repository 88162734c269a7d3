"""Attaches disks to this machine. What Azure says of the machine is the truth, not what a call returns."""

import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from cloudmanager.core.errors import (
    AttachLimit,
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
from cloudmanager.providers.azure.changes import Change, Changes
from cloudmanager.providers.azure.errors import is_unanswered
from cloudmanager.providers.azure.facts import DataDisk, DiskFacts, MachineFacts, Place
from cloudmanager.providers.azure.machine_view import AGREEMENT_SECONDS, MachineView
from cloudmanager.providers.azure.proof import UNPROVED, Accepted, Confirmed, Proofs, Requested
from cloudmanager.providers.azure.resource_id import ResourceId

_MOST_FRESH_PLANS = 256
_SEEN_SECONDS = 30.0
_LUNS = range(64)
"""The lowest first: Linux looks at the other LUNs of a controller only when there is a disk at LUN 0.

https://learn.microsoft.com/azure/virtual-machines/linux/attach-disk-portal (read 2026-11-29)
"""
Keep = Callable[[str], None]


class Attaching:
    """Attaches to one machine. Callers serialise what is done to a disk."""

    def __init__(
        self,
        compute: Compute,
        view: MachineView,
        machine: ResourceId,
        slots: Slots,
        changes: Changes,
        proofs: Proofs,
        glimpse: Callable[[ResourceId, int], None],
    ) -> None:
        """`glimpse` is called with a disk and its LUN when an attach has ended."""
        self._compute = compute
        self._view = view
        self._proofs = proofs
        self._answers = LatestProofs()
        self._machine = machine
        self._slots = slots
        self._changes = changes
        self._glimpse = glimpse
        self._seen: dict[str, tuple[float, DiskFacts]] = {}
        self._fresh: deque[str] = deque(maxlen=_MOST_FRESH_PLANS)
        """Request ids of plans that were made here and not carried out yet."""

    def plan(self, disk: Disk, id: ResourceId, node: Node) -> AttachPlan:
        """Two calls; those that plan at the same time share the look at the machine.

        Raises DiskReplaced, DiskInUse, WrongZone, AttachLimit.
        """
        self._changes.refuse_full(id)
        found = self._compute.disk(id)
        found.refuse_other(disk)
        machine = self._view.look(self._view.recent_seconds)
        if entry := machine.entry(id):
            return _plan(disk, node, str(entry.lun), is_present=True)
        self._refuse_hopeless(disk, found, machine)
        taken = {str(entry.lun) for entry in machine.data_disks}
        with self._slots.locked() as memory:
            if len(taken | set(memory.chosen)) >= len(_LUNS):  # those of other plans are as good as taken
                raise self._changes.full()
            plan = _plan(disk, node, memory.choose(map(str, _LUNS), taken), is_present=False)
        self._fresh.append(plan.request_id)
        self._changes.announce(plan.request_id)
        return plan

    def attach(self, plan: AttachPlan, id: ResourceId, deadline: Deadline, keep: Keep) -> Attachment:
        """Changes nothing when the disk is attached already. Raises DiskReplaced."""
        self._changes.refuse_full(id)
        plan = replace(plan, proof=self._answers.get(plan))
        present = None if self._takes_fresh(plan) else self._present(plan, id, deadline)
        if present is None:
            try:
                return self._attach(plan, id, deadline, keep)
            except CloudManagerError as error:
                if not error.retriable or isinstance(error, AttachLimit | NameClash):
                    self._slots.free(plan.slot)
                raise
        return self._judged(plan, *present)

    def seen(self, id: ResourceId) -> DiskFacts | None:
        """What Azure has said of a disk since it was attached, once, and if that was a moment ago."""
        at, found = self._seen.pop(id.key, (float("-inf"), None))
        return found if time.monotonic() - at < _SEEN_SECONDS else None

    def _takes_fresh(self, plan: AttachPlan) -> bool:
        """Whether this process has just planned it, and seen that the disk is absent. Once: the next try looks."""
        try:
            self._fresh.remove(plan.request_id)
        except ValueError:
            return False
        return True

    def _present(
        self, plan: AttachPlan, id: ResourceId, deadline: Deadline
    ) -> tuple[MachineFacts, DataDisk, DiskFacts] | None:
        """None: it is not attached. Raises DiskReplaced."""
        machine, entry = self._found(id, deadline)
        found = self._compute.disk(id)
        found.refuse_other(plan.disk)
        return (machine, entry, found) if entry else None

    def _attach(self, plan: AttachPlan, id: ResourceId, deadline: Deadline, keep: Keep) -> Attachment:
        requested_at = self._change(plan, id, deadline, keep)
        is_done = requested_at is not None
        if is_done:
            self._glimpse(id, int(plan.slot))  # before the look that confirms it
        machine, entry = self._confirmed(plan, id, deadline) if is_done else self._carried_out(plan, id, deadline)
        found = self._same(plan, id, deadline, is_done=is_done)
        self._seen[id.key] = (time.monotonic(), found)
        if is_done and (confirmed := Confirmed.after(requested_at, found.owned_since)):
            self._keep(plan, confirmed, keep)
        plan = replace(plan, proof=self._answers.get(plan))
        return _attachment(plan, entry) if is_done else self._judged(plan, machine, entry, found)

    def _judged(self, plan: AttachPlan, machine: MachineFacts, entry: DataDisk, found: DiskFacts) -> Attachment:
        """Of a disk that is attached, and not by the present call as far as is known."""
        reason = self._why(plan, found, entry, machine)
        attachment = _attachment(plan, entry)
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
                self._changes.make(Change(id, None, deadline, lambda machine: machine.entry(id) is not None))
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

    def _change(self, plan: AttachPlan, id: ResourceId, deadline: Deadline, keep: Keep) -> datetime | None:
        """When the request was made that has attached the disk, by Azure's clock.

        None: it is attached all the same, or was being attached.
        """
        requested_at: datetime | None = None

        def is_due(machine: MachineFacts) -> bool:
            nonlocal requested_at
            entry = machine.entry(id)
            if entry is not None:
                if entry.is_leaving:
                    _refuse_failed_detach(machine, entry)
                return False
            if plan.is_present:
                raise NameClash(f"Somebody else had attached {plan.disk.id}, and has detached it.")
            requested_at = machine.seen_at or datetime.now(UTC)
            self._keep(plan, Requested(requested_at), keep)
            return True

        def accepted(operation: str) -> None:
            self._keep(plan, Accepted(operation), keep)

        self._changes.arrived(plan.request_id)
        try:
            was_made = self._changes.make(Change(id, int(plan.slot), deadline, is_due, accepted))
        except CloudManagerError as error:
            may_be_here = is_unanswered(error) or isinstance(error, DiskInUse | NameClash)
            is_here = may_be_here and self._view.look().entry(id) is not None
            was_refused = not (is_here and is_unanswered(error))
            if was_refused and requested_at and self._answers.get(plan) == str(Requested(requested_at)):
                self._keep(plan, "", keep)
            if not is_here:
                raise
            return None  # it is being carried out, or somebody attached it to this machine a moment ago
        return requested_at if was_made else None

    def _carried_out(self, plan: AttachPlan, id: ResourceId, deadline: Deadline) -> tuple[MachineFacts, DataDisk]:
        """By a request whose answer is not known: the entry is there as soon as it begins."""
        machine, entry = self._found(id, deadline)
        if entry is None:
            raise CloudUnavailable(f"{plan.disk.id} was being attached, and is not attached now. It is tried again.")
        return machine, entry

    def _confirmed(self, plan: AttachPlan, id: ResourceId, deadline: Deadline) -> tuple[MachineFacts, DataDisk]:
        ages = [AGREEMENT_SECONDS]  # any look since the change

        def look() -> tuple[MachineFacts, DataDisk] | None:
            machine = self._view.look(ages.pop() if ages else 0.0)
            entry = machine.entry(id)
            return None if entry is None or entry.is_leaving else (machine, entry)

        try:
            return deadline.wait_for(look, AGREEMENT_SECONDS)
        except TimedOut:
            raise CloudUnavailable(
                f"Azure reports that {plan.disk.id} was attached, and says that {self._machine.name} does not have it."
            ) from None


def _attachment(plan: AttachPlan, entry: DataDisk) -> Attachment:
    return replace(plan.attachment(), access=Access.READ_WRITE, slot=str(entry.lun))


def _refuse_failed_detach(machine: MachineFacts, entry: DataDisk) -> None:
    if machine.is_settled:
        raise CloudUnavailable(
            f"The last detach of {entry.disk.name} from {machine.id.name} failed: it must be detached before it can be "
            "attached again.",
            cloud_code="AttachDiskWhileBeingDetached",
        )


def _plan(disk: Disk, node: Node, slot: str, *, is_present: bool) -> AttachPlan:
    return AttachPlan(disk, node, Access.READ_WRITE, str(uuid.uuid4()), slot, is_present)
