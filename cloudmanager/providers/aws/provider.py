"""The hooks. What they do is in the other files of this package, which are imported when a provider is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from cloudmanager.core.errors import DiskNotFound, MissingExtra
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
from cloudmanager.providers.aws.settings import AwsSettings

if TYPE_CHECKING:
    from cloudmanager.providers.aws.resource_id import ResourceId
    from cloudmanager.providers.aws.wiring import Ebs


class AwsProvider:
    """EBS volumes, for the EC2 instance that cloudmanager runs on."""

    type: ClassVar[str] = "aws"
    Settings = AwsSettings

    def __init__(self, name: str, settings: AwsSettings) -> None:
        """Raises MissingExtra when boto3 is not installed. Asks nobody anything."""
        self._name = name
        self._ebs = _built(name, settings)

    @hookimpl
    def node(self) -> Node:
        return self._ebs.machine.node

    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        return self._ebs.disk(self._ebs.volume(disk_id))

    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        volumes, token = self._ebs.listing.page(query, page_token)
        return Page(tuple(self._ebs.disk(volume) for volume in volumes), token)

    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:  # noqa: ARG002 - EBS attaches read-write only
        return self._ebs.attaching.plan(disk, self._ebs.resolve(disk.id))

    @hookimpl
    def attach(self, plan: AttachPlan, keep: Callable[[str], None]) -> Attachment:
        return self._ebs.attaching.attach(plan, self._ebs.resolve(plan.disk.id), keep)

    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        id = self._ebs.resolve(disk.id)
        if id.region != self._ebs.machine.region:
            return NotAttached(f"{disk.id} is in {id.region}, and this machine is not.")
        try:
            return _identified(self._ebs.locating.locate(id), id)
        except DiskNotFound as error:
            return NotAttached(error.detail)

    @hookimpl
    def locate_all(self, disks: Sequence[Disk]) -> Mapping[DiskId, Device | NotAttached]:
        ids = {disk.id: self._ebs.resolve(disk.id) for disk in disks}
        here = [id for id in ids.values() if id.region == self._ebs.machine.region]
        located = self._ebs.locating.locate_all(here)
        return {disk_id: _identified(located[id], id) for disk_id, id in ids.items() if id in located}

    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        try:
            self._ebs.attaching.detach(attachment, self._ebs.resolve(attachment.disk.id))
        except DiskNotFound:
            return  # and with it, every attachment of it

    @hookimpl
    def snapshot(self, disk: Disk, name: str) -> Snapshot:
        id = self._ebs.resolve(disk.id)
        return self._ebs.snapshot(self._ebs.copies(id.region).snapshot(id, name))

    @hookimpl
    def restore(self, snapshot: Snapshot, name: str) -> Disk:
        id = self._ebs.resolve(snapshot.id, "snap")
        return self._ebs.disk(self._ebs.copies(id.region).restore(id, name))

    @hookimpl
    def delete(self, item: Disk | Snapshot) -> None:
        id = self._ebs.resolve(item.id, "vol" if isinstance(item, Disk) else "snap")
        copies = self._ebs.copies(id.region)
        if isinstance(item, Disk):
            copies.delete_volume(id)
        else:
            copies.delete_snapshot(id)

    @hookimpl
    def diagnose(self) -> Iterable[Finding]:
        from cloudmanager.providers.aws.doctor import examine  # noqa: PLC0415 - it imports boto3

        return list(examine(self._name, self._ebs.machine, self._ebs.home))


def _identified(located: Device | NotAttached, id: ResourceId) -> Device | NotAttached:
    """A volume's id is never given to another one, and it is what the volume was located by."""
    return replace(located, incarnation=id.id) if isinstance(located, Device) else located


def _built(name: str, settings: AwsSettings) -> Ebs:
    try:
        from cloudmanager.providers.aws.wiring import Ebs  # noqa: PLC0415 - it imports boto3
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("boto3", "botocore"):
            raise MissingExtra(
                f"[providers.{name}] needs boto3, which is not installed: pip install 'cloudmanager[aws]'"
            ) from error
        raise
    return Ebs(name, settings)
