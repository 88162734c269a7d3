"""The hooks. What they do is in the other files of this package, which are imported when a provider is built."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from cloudmanager.core.errors import DiskNotFound
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
from cloudmanager.providers._errors import require_sdk
from cloudmanager.providers.aws.settings import AwsSettings

if TYPE_CHECKING:
    from cloudmanager.providers.aws.resource_id import ResourceId


class AwsProvider:
    """EBS volumes, for the EC2 instance that cloudmanager runs on."""

    type: ClassVar[str] = "aws"
    Settings = AwsSettings

    def __init__(self, name: str, settings: AwsSettings) -> None:
        """Makes no call. Raises MissingExtra when boto3 is not installed."""
        self._name = name
        self._settings = settings
        require_sdk(["boto3", "botocore"], "aws")
        from cloudmanager.providers.aws.wiring import Parts  # noqa: PLC0415 - it imports the SDK

        self._parts = Parts(name, settings)

    @hookimpl
    def node(self) -> Node:
        return self._parts.machine.node

    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        return self._parts.disk(self._parts.volume(disk_id))

    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        volumes, token = self._parts.listing.find(query, page_token)
        return Page(tuple(self._parts.disk(volume) for volume in volumes), token)

    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:  # noqa: ARG002 - EBS attaches read-write only
        return self._parts.attaching.plan(disk, self._parts.resolve(disk.id))

    @hookimpl
    def attach(self, plan: AttachPlan, keep: Callable[[str], None]) -> Attachment:
        return self._parts.attaching.attach(plan, self._parts.resolve(plan.disk.id), keep)

    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        id = self._parts.resolve(disk.id)
        if id.region != self._parts.machine.region:
            return NotAttached(f"{disk.id} is in {id.region}, and this machine is not.")
        try:
            return _identified(self._parts.locating.locate(id), id)
        except DiskNotFound as error:
            return NotAttached(error.detail)

    @hookimpl
    def locate_all(self, disks: Sequence[Disk]) -> Mapping[DiskId, Device | NotAttached]:
        ids = {disk.id: self._parts.resolve(disk.id) for disk in disks}
        here = [id for id in ids.values() if id.region == self._parts.machine.region]
        located = self._parts.locating.locate_all(here)
        return {disk_id: _identified(located[id], id) for disk_id, id in ids.items() if id in located}

    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        try:
            self._parts.detaching.detach(attachment, self._parts.resolve(attachment.disk.id))
        except DiskNotFound:
            return  # and with it, every attachment of it

    @hookimpl
    def snapshot(self, disk: Disk, name: str) -> Snapshot:
        id = self._parts.resolve(disk.id)
        return self._parts.snapshot(self._parts.copies(id.region).snapshot(id, name))

    @hookimpl
    def restore(self, snapshot: Snapshot, name: str) -> Disk:
        id = self._parts.resolve(snapshot.id, "snap")
        return self._parts.disk(self._parts.copies(id.region).restore(id, name))

    @hookimpl
    def delete(self, item: Disk | Snapshot) -> None:
        id = self._parts.resolve(item.id, "vol" if isinstance(item, Disk) else "snap")
        copies = self._parts.copies(id.region)
        if isinstance(item, Disk):
            copies.delete_volume(id)
        else:
            copies.delete_snapshot(id)

    @hookimpl
    def diagnose(self) -> Iterable[Finding]:
        from cloudmanager.providers.aws.doctor import diagnose  # noqa: PLC0415 - it imports boto3

        return list(diagnose(self._name, self._settings, self._parts))


def _identified(located: Device | NotAttached, id: "ResourceId") -> Device | NotAttached:
    """A volume's id is never given to another one, and it is what the volume was located by."""
    return replace(located, incarnation=id.id) if isinstance(located, Device) else located
