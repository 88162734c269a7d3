"""A cloud whose disks are files. It outlives its users; attaching and detaching take two steps each."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from cloudmanager import (
    Access,
    Attachment,
    AttachPlan,
    Device,
    Disk,
    DiskId,
    FileIdentity,
    Node,
    NotAttached,
    Page,
    Query,
    hookimpl,
)
from cloudmanager.core.errors import DiskNotFound

SOMEBODY = "somebody"
"""Who attaches disks by hand."""


@dataclass(frozen=True)
class Holder:
    """Who has a disk, and how far the cloud has come with it."""

    state: str
    """attaching, attached or detaching."""
    owner: str
    """The request that attached it."""


def _nothing(_step: str) -> None:
    pass


class FileCloud:
    """The disks below a directory, and who has them."""

    def __init__(self, directory: Path, on_step: Callable[[str], None] = _nothing) -> None:
        """`on_step` is called in the middle of each operation, when the cloud has begun it and not finished."""
        self.disks = directory / "disks"
        self._holders = directory / "holders"
        self._on_step = on_step
        self._turn = threading.RLock()
        for each in (self.disks, self._holders):
            each.mkdir(parents=True, exist_ok=True)

    def holder(self, name: str) -> Holder | None:
        try:
            state, owner = (self._holders / name).read_text().split()
        except FileNotFoundError:
            return None
        return Holder(state, owner)

    def holders(self) -> dict[str, Holder]:
        """By disk."""
        found = {path.name: self.holder(path.name) for path in self._holders.iterdir() if path.suffix != ".new"}
        return {name: holder for name, holder in found.items() if holder}

    def attach(self, name: str, owner: str) -> str:
        """Whoever has the disk then."""
        with self._turn:
            holder = self.holder(name)
            if holder is None or holder.state == "detaching":
                holder = Holder("attaching", owner)
                self._keep(name, holder)
                self._on_step("attach under way")
            self._keep(name, Holder("attached", holder.owner))
            return holder.owner

    def detach(self, name: str, owner: str) -> None:
        """Does nothing to what somebody else has attached."""
        with self._turn:
            holder = self.holder(name)
            if holder is None or holder.owner != owner:
                return
            self._keep(name, Holder("detaching", owner))
            self._on_step("detach under way")
            self.take_away(name)

    def take_away(self, name: str) -> None:
        """As an operator detaches it by hand."""
        (self._holders / name).unlink(missing_ok=True)

    def _keep(self, name: str, holder: Holder) -> None:
        unfinished = self._holders / f"{name}.new"
        unfinished.write_text(f"{holder.state} {holder.owner}")
        unfinished.rename(self._holders / name)


class FileCloudSettings(BaseModel):
    model_config = {"extra": "forbid"}


class FileCloudProvider:
    """A provider for one cloud of files."""

    type = "files"
    Settings = FileCloudSettings
    file_cloud: FileCloud

    def __init__(self, name: str, settings: FileCloudSettings) -> None:
        self.name = name
        self.settings = settings

    @hookimpl
    def node(self) -> Node:
        return Node("clerk")

    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        try:
            size = (self.file_cloud.disks / disk_id.native).stat().st_size
        except FileNotFoundError:
            raise DiskNotFound(f"There is no {disk_id}.") from None
        return Disk(disk_id, f"files:{disk_id.native}", size)

    @hookimpl
    def find(self, query: Query) -> Page[Disk]:
        names = sorted(path.name for path in self.file_cloud.disks.iterdir() if query.text in path.name)
        return Page(tuple(self.describe(DiskId(self.name, name)) for name in names))

    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        is_present = self.file_cloud.holder(_name(disk)) is not None
        return AttachPlan(disk, self.node(), access, str(uuid.uuid4()), is_present=is_present)

    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        owner = self.file_cloud.attach(_name(plan.disk), plan.request_id)
        request_id = owner if owner == plan.request_id else ""
        return Attachment(plan.disk, plan.node, plan.access, plan.slot, request_id)

    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        holder = self.file_cloud.holder(_name(disk))
        if holder is None or holder.state != "attached":
            return NotAttached("it is not attached")
        path = self.file_cloud.disks / _name(disk)
        status = path.stat()
        return Device(str(path), status.st_size, FileIdentity(status.st_dev, status.st_ino))

    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        self.file_cloud.detach(_name(attachment.disk), attachment.request_id)


def _name(disk: Disk) -> str:
    return disk.canonical_id.removeprefix("files:")


class FileCloudPlugin:
    """Offers a provider type whose providers share one cloud of files."""

    def __init__(self, file_cloud: FileCloud) -> None:
        self._type = type("BoundFileCloudProvider", (FileCloudProvider,), {"file_cloud": file_cloud})

    @hookimpl
    def register_providers(self) -> list[type]:
        return [self._type]
