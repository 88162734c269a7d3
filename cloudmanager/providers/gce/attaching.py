"""Attaches disks to this instance. Success is what Compute Engine's own description of the instance says."""

import uuid
from dataclasses import replace
from typing import NoReturn

from google.cloud import compute_v1

from cloudmanager.core.errors import (
    AccessConflict,
    CloudError,
    CloudManagerError,
    CloudUnavailable,
    DiskInUse,
    DiskReplaced,
    UnsupportedAccess,
    WrongZone,
)
from cloudmanager.core.model import Access, Attachment, AttachPlan, Disk, Node
from cloudmanager.providers._capacity import Capacity
from cloudmanager.providers._waiting import Deadline, TimedOut, wait_for
from cloudmanager.providers.gce import locating
from cloudmanager.providers.gce.api import DONE, Compute
from cloudmanager.providers.gce.facts import refuse_other, users
from cloudmanager.providers.gce.machine_view import CONFIRM_SECONDS, MachineView, Slot, View, again, writable
from cloudmanager.providers.gce.resource_id import ResourceId, is_region
from cloudmanager.providers.gce.settings import GceSettings

_MODES = {Access.READ_ONLY: "READ_ONLY", Access.READ_WRITE: "READ_WRITE"}


class Attaching:
    """Callers serialise the attaches of a disk."""

    def __init__(self, compute: Compute, instance: MachineView, node: Node, settings: GceSettings) -> None:
        self._compute = compute
        self._instance = instance
        self._node = node
        self._me = ResourceId.from_link(node.native_id)
        self._settings = settings

    def plan(self, disk: Disk, resource: ResourceId, wanted: Access) -> AttachPlan:
        """Two calls. The device name has the request id in it, so nobody else chooses it. Raises DiskReplaced."""
        _check_place(disk, self._node)
        view = self._instance.look()
        self._check_exists(view)
        self.present(disk, resource)
        access = Access.READ_WRITE if wanted.writes_disk else Access.READ_ONLY
        request_id = str(uuid.uuid4())
        present = view.slots.get(resource.path)
        if present is not None:
            _check_access(disk, present, access)
            return AttachPlan(disk, self._node, present.access, request_id, present.device_name, is_present=True)
        Capacity(len(view.slots), self._settings.max_disks or None, "max_disks").refuse_full(str(disk.id))
        return AttachPlan(disk, self._node, access, request_id, f"{locating.OUR_NAMES}{uuid.UUID(request_id).hex}")

    def attach(self, plan: AttachPlan, resource: ResourceId, *, is_fresh: bool) -> Attachment:
        """`is_fresh`: the plan was made by this very process a moment ago, so the disk need not be looked for again."""
        deadline = Deadline(self._settings.attach_timeout_seconds)
        view = None if is_fresh else self._settled(deadline)
        if view is not None and resource.path in view.slots:
            present = view.slots[resource.path]
        else:
            if view is not None:
                self.present(plan.disk, resource)
            present, view = self._attach(plan, resource, deadline)
        reason = self._why(plan, present, view)
        self._refuse_other(plan, resource, deadline, is_ours=not reason)
        _check_access(plan.disk, present, plan.access)
        attachment = replace(plan.attachment(), node=self._node, slot=present.device_name, access=present.access)
        return replace(attachment, request_id="", reason=reason) if reason else attachment

    def _why(self, plan: AttachPlan, present: Slot, view: View | None) -> str:
        """Why the disk that is there is not taken for the plan's; empty where it is.

        `view` is what it was found in; None: a request of this call put it there.
        """
        if plan.is_present:
            return f"{plan.disk.id} was attached as {present.device_name} before it was planned."
        if present.device_name != plan.slot:
            return f"{plan.disk.id} is attached as {present.device_name}, and was planned as {plan.slot}."
        if view is None or plan.proof or self._instance.was_asked(view.link, plan.request_id):
            return ""
        return f"{plan.disk.id} is attached as {plan.slot}, and Compute Engine knows no request of ours that did that."

    def present(self, disk: Disk, resource: ResourceId) -> compute_v1.Disk:
        """What has the disk's name now, if that is the disk. Raises DiskReplaced, DiskNotFound."""
        found = self._compute.disk(resource)
        refuse_other(disk, found)
        return found

    def _refuse_other(self, plan: AttachPlan, resource: ResourceId, deadline: Deadline, *, is_ours: bool) -> None:
        """An attach names the disk, and while it is attached the name cannot be given to another one.

        So what has the name after the attach is what was attached. Raises DiskReplaced, after undoing what this plan
        made of another disk; `is_ours`: it was this that attached it.
        """
        try:
            self.present(plan.disk, resource)
        except DiskReplaced:
            if is_ours:
                operation = self._compute.detach(self._me, plan.slot)
                self._compute.finish(operation, deadline, f"detaching what has the name of {plan.disk.id} now")
            raise

    def _settled(self, deadline: Deadline) -> View:
        view = self._instance.settle(deadline)
        self._check_exists(view)
        return view

    def _attach(self, plan: AttachPlan, resource: ResourceId, deadline: Deadline) -> tuple[Slot, View | None]:
        """As `_why` takes them."""
        try:
            return self._request_either(plan, resource, deadline), None
        except DiskInUse as error:
            view = self._settled(deadline)
            if resource.path in view.slots:
                return view.slots[resource.path], view  # attached here in the meantime
            self._refuse(plan, resource, error)

    def _request_either(self, plan: AttachPlan, resource: ResourceId, deadline: Deadline) -> Slot:
        """Read-write where Compute Engine refuses read-only: only Google knows which disks those are.

        The service sets the device read-only as soon as it is there. The words of the refusal are not documented, so
        any refusal that has no other known meaning counts; it is raised if read-write is refused too.
        """
        try:
            return self._request(plan, plan.access, plan.request_id, resource, deadline)
        except (CloudError, UnsupportedAccess) as refusal:
            if plan.access.writes_disk or refusal.retriable or type(refusal) not in (CloudError, UnsupportedAccess):
                raise
            try:
                return self._request(plan, Access.READ_WRITE, writable(plan.request_id), resource, deadline)
            except CloudManagerError as error:
                if error.retriable or (isinstance(refusal, UnsupportedAccess) and type(error) is not CloudError):
                    raise
                raise refusal from error

    def _request(
        self, plan: AttachPlan, access: Access, request_id: str, resource: ResourceId, deadline: Deadline
    ) -> Slot:
        wanted = compute_v1.AttachedDisk(
            source=resource.path, device_name=plan.slot, mode=_MODES[access], type_="PERSISTENT", auto_delete=False
        )
        operation = self._compute.attach(self._me, wanted, request_id)
        if operation.status == DONE:  # an earlier request with this id: what it did may have been undone since
            present = self._instance.look().slots.get(resource.path)
            if present is not None and not operation.error.errors:
                return present
            operation = self._compute.attach(self._me, wanted, again(request_id))
        self._compute.finish(operation, deadline, f"attaching {plan.disk.id}")
        return self._confirmed(plan, resource, deadline)

    def _confirmed(self, plan: AttachPlan, resource: ResourceId, deadline: Deadline) -> Slot:
        def look() -> Slot | None:
            return self._instance.look().slots.get(resource.path)

        try:
            return wait_for(look, timeout=min(deadline.left, CONFIRM_SECONDS), interval=self._settings.poll_seconds)
        except TimedOut:
            raise CloudUnavailable(
                f"Compute Engine reported that {plan.disk.id} was attached, and does not list it among the disks of "
                f"{self._node.name}; it is looked at again."
            ) from None

    def _refuse(self, plan: AttachPlan, resource: ResourceId, error: CloudManagerError) -> NoReturn:
        others = [user.short for user in users(self._compute.disk(resource)) if user.path != self._node.native_id]
        if not others:
            raise DiskInUse(
                f"Compute Engine says that {plan.disk.id} is in use, and names no instance that has it.",
                cloud_code=error.cloud_code,
                retriable=True,
            ) from error
        raise DiskInUse(
            f"{plan.disk.id} is attached to {', '.join(others)}: detach it there, or use a snapshot of it.",
            holder=others[0],
            cloud_code=error.cloud_code,
        ) from error

    def _check_exists(self, view: View) -> None:
        if not view.exists:
            raise CloudError(f"Compute Engine has no instance {self._node.native_id}: check zone and instance.")


def _check_place(disk: Disk, node: Node) -> None:
    """What can be known without asking: a regional disk may have its replicas in other zones of the region."""
    is_near = node.location.startswith(f"{disk.location}-") if is_region(disk.location) else False
    if not is_near and disk.location != node.location:
        raise WrongZone(
            f"{disk.id} is in {disk.location}, and this instance in {node.location}: restore a snapshot of it here, or "
            "use a cloudmanager in the disk's zone."
        )


def _check_access(disk: Disk, present: Slot, wanted: Access) -> None:
    if wanted.writes_disk and not present.access.writes_disk:
        raise AccessConflict(
            f"{disk.id} is attached to this instance read-only, and {wanted.value} is asked for: it is attached again "
            "once it is not in use."
        )
