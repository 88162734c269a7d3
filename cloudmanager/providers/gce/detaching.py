"""Detaches disks from this instance, and from no other."""

from cloudmanager.core.errors import (
    CloudManagerError,
    CloudUnavailable,
    DeviceError,
    DiskNotFound,
    DiskReplaced,
    ForeignAttachment,
)
from cloudmanager.core.model import Attachment
from cloudmanager.providers._waiting import Deadline, TimedOut, wait_for
from cloudmanager.providers.gce import locating
from cloudmanager.providers.gce.api import Compute
from cloudmanager.providers.gce.facts import refuse_other
from cloudmanager.providers.gce.machine_view import CONFIRM_SECONDS, MachineView, Slot, View
from cloudmanager.providers.gce.resource_id import ResourceId
from cloudmanager.providers.gce.settings import GceSettings


class Detaching:
    """Callers serialise the detaches of a disk."""

    def __init__(self, compute: Compute, instance: MachineView, me: ResourceId, settings: GceSettings) -> None:
        self._compute = compute
        self._instance = instance
        self._me = me
        self._settings = settings

    def detach(self, attachment: Attachment, resource: ResourceId) -> None:
        """Returns when neither the cloud nor this machine has it any more.

        A disk that is attached under another device name was attached by somebody else and stays. Raises
        ForeignAttachment where nothing was kept of the attach, and Compute Engine knows of no request for it.
        """
        deadline = Deadline(self._settings.detach_timeout_seconds)
        view = self._instance.look()
        present = _ours(view, attachment, resource)
        if present is None:  # an attach that is under way would bring it back
            present = _ours(self._instance.settle(deadline, view), attachment, resource)
        if present is not None and self._is_another(attachment, resource):
            return
        if present is not None and not attachment.proof:
            self._check_asked(view, attachment)
        if present is not None:
            self._detach(attachment, resource, present, deadline)
        if device_name := (present.device_name if present else attachment.slot):
            self._await_removal(device_name)

    def _check_asked(self, view: View, attachment: Attachment) -> None:
        if not self._instance.was_asked(view.link, attachment.request_id):
            raise ForeignAttachment(
                f"{attachment.disk.id} is attached as {attachment.slot}, and Compute Engine knows no request of ours "
                "that did that."
            )

    def _is_another(self, attachment: Attachment, resource: ResourceId) -> bool:
        """A disk that got the name later: the attachment has gone with the one that it was of."""
        try:
            refuse_other(attachment.disk, self._compute.disk(resource))
        except DiskReplaced:
            return True
        except DiskNotFound:
            return False
        return False

    def _detach(self, attachment: Attachment, resource: ResourceId, present: Slot, deadline: Deadline) -> None:
        try:
            operation = self._compute.detach(self._me, present.device_name)
            self._compute.finish(operation, deadline, f"detaching {attachment.disk.id}")
        except CloudManagerError:
            # Perhaps an earlier detach runs, or has ended: look at the result.
            if _ours(self._instance.settle(deadline), attachment, resource) is not None:
                raise
            return
        self._confirm(attachment, resource, deadline)

    def _confirm(self, attachment: Attachment, resource: ResourceId, deadline: Deadline) -> None:
        def look() -> bool | None:
            return True if _ours(self._instance.look(), attachment, resource) is None else None

        try:
            wait_for(look, timeout=min(deadline.left, CONFIRM_SECONDS), interval=self._settings.poll_seconds)
        except TimedOut:
            raise CloudUnavailable(
                f"Compute Engine reported that {attachment.disk.id} was detached, and still lists it among the disks "
                f"of {self._me.name}; it is looked at again."
            ) from None

    def _await_removal(self, device_name: str) -> None:
        def look() -> bool | None:
            return True if locating.find(self._settings.block_devices, device_name) is None else None

        try:
            wait_for(look, timeout=self._settings.device_timeout_seconds, interval=0.25, first=0.01)
        except TimedOut:
            raise DeviceError(
                f"Compute Engine has detached {device_name}, and its device is still on this machine; "
                "it is looked at again.",
                retriable=True,
            ) from None


def _ours(view: View, attachment: Attachment, resource: ResourceId) -> Slot | None:
    slot = view.slots.get(resource.path)
    return slot if slot is not None and attachment.slot in ("", slot.device_name) else None
