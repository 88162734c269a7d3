"""Detaches from this machine what was attached to it here, and nothing else."""

from cloudmanager.core.errors import CloudUnavailable, ForeignAttachment
from cloudmanager.core.incarnation import is_replaced
from cloudmanager.core.model import Attachment
from cloudmanager.providers._slots import Slots
from cloudmanager.providers._waiting import Deadline, TimedOut
from cloudmanager.providers.azure.api import Compute
from cloudmanager.providers.azure.changes import Change, Changes
from cloudmanager.providers.azure.errors import MachineGone
from cloudmanager.providers.azure.facts import MachineFacts
from cloudmanager.providers.azure.machine_view import AGREEMENT_SECONDS, MachineView
from cloudmanager.providers.azure.proof import UNPROVED, Proofs
from cloudmanager.providers.azure.resource_id import ResourceId


class Detaching:
    """Detaches from one machine."""

    def __init__(
        self, compute: Compute, view: MachineView, machine: ResourceId, slots: Slots, changes: Changes, proofs: Proofs
    ) -> None:
        self._compute = compute
        self._view = view
        self._proofs = proofs
        self._machine = machine
        self._slots = slots
        self._changes = changes

    def detach(self, attachment: Attachment, id: ResourceId, deadline: Deadline) -> None:
        """Returns when the machine does not have the disk, also because it, or the disk, is gone.

        A disk at another LUN than the attachment's was attached by somebody else and stays. So does one that got the
        disk's name later: the attachment has gone with the disk that it was of. Raises ForeignAttachment where no
        request of ours is known, and where the disk was attached again since. Callers serialise what is done to a disk.
        """

        try:
            machine = self._view.look(self._view.look_seconds / 4)
            if not _has(machine, attachment, id):
                machine = self._view.settled(deadline)
            if _has(machine, attachment, id) and self._may_detach(attachment, id, machine):
                self._detach(attachment, id, deadline)
                self._slots.free(attachment.slot)
        except MachineGone:
            return

    def _detach(self, attachment: Attachment, id: ResourceId, deadline: Deadline) -> None:
        def has(machine: MachineFacts) -> bool:
            return _has(machine, attachment, id)

        if self._changes.make(Change(id, None, deadline, has)):
            self._await_gone(attachment, id, deadline)

    def _may_detach(self, attachment: Attachment, id: ResourceId, machine: MachineFacts) -> bool:
        """False of a disk that got the name later. Raises ForeignAttachment."""
        found = self._compute.find_disk(id)
        if found is None:
            return True
        if is_replaced(attachment.disk, found.unique_id, found.created_at):
            return False
        if not self._proofs.allows_detach(attachment.proof, found, machine.seen_at):
            raise ForeignAttachment(f"{attachment.disk.id} is attached at LUN {attachment.slot}, and {UNPROVED}")
        return True

    def _await_gone(self, attachment: Attachment, id: ResourceId, deadline: Deadline) -> None:
        ages = [AGREEMENT_SECONDS]  # any look since the change

        def look() -> bool | None:
            return None if _has(self._view.look(ages.pop() if ages else 0.0), attachment, id) else True

        try:
            deadline.wait_for(look, AGREEMENT_SECONDS)
        except TimedOut:
            raise CloudUnavailable(
                f"Azure reports that {attachment.disk.id} was detached, and says that {self._machine.name} has it."
            ) from None


def _has(machine: MachineFacts, attachment: Attachment, id: ResourceId) -> bool:
    entry = machine.entry(id)
    return entry is not None and attachment.slot == str(entry.lun)
