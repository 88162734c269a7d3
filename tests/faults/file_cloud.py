"""A cloud of files, which survives whoever uses it: disks are taken from a depot in two steps, and brought back."""

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
class Tenure:
    """Who has a disk, and how far the cloud has come with it."""

    state: str
    """attaching, attached or detaching."""
    owner: str
    """The request that attached it."""


def _nothing(_step: str) -> None:
    pass


class Depot:
    """The disks below a directory, and who has them."""

    def __init__(self, directory: Path, on_step: Callable[[str], None] = _nothing) -> None:
        """`on_step` is called in the middle of each operation, when the cloud has begun it and not finished."""
        self.disks = directory / "disks"
        self._tenures = directory / "tenures"
        self._on_step = on_step
        self._turn = threading.RLock()
        for each in (self.disks, self._tenures):
            each.mkdir(parents=True, exist_ok=True)

    def tenure(self, name: str) -> Tenure | None:
        try:
            state, owner = (self._tenures / name).read_text().split()
        except FileNotFoundError:
            return None
        return Tenure(state, owner)

    def tenures(self) -> dict[str, Tenure]:
        """By disk."""
        found = {path.name: self.tenure(path.name) for path in self._tenures.iterdir() if path.suffix != ".new"}
        return {name: tenure for name, tenure in found.items() if tenure}

    def attach(self, name: str, owner: str) -> str:
        """Whoever has the disk then."""
        with self._turn:
            tenure = self.tenure(name)
            if tenure is None or tenure.state == "detaching":
                tenure = Tenure("attaching", owner)
                self._keep(name, tenure)
                self._on_step("attach under way")
            self._keep(name, Tenure("attached", tenure.owner))
            return tenure.owner

    def detach(self, name: str, owner: str) -> None:
        """Does nothing to what somebody else has attached."""
        with self._turn:
            tenure = self.tenure(name)
            if tenure is None or tenure.owner != owner:
                return
            self._keep(name, Tenure("detaching", owner))
            self._on_step("detach under way")
            self.take_away(name)

    def take_away(self, name: str) -> None:
        """As an operator detaches it by hand."""
        (self._tenures / name).unlink(missing_ok=True)

    def _keep(self, name: str, tenure: Tenure) -> None:
        unfinished = self._tenures / f"{name}.new"
        unfinished.write_text(f"{tenure.state} {tenure.owner}")
        unfinished.rename(self._tenures / name)


class DepotSettings(BaseModel):
    model_config = {"extra": "forbid"}


class DepotProvider:
    """Attaches from one depot."""

    type = "depot"
    Settings = DepotSettings
    depot: Depot

    def __init__(self, name: str, settings: DepotSettings) -> None:
        self.name = name
        self.settings = settings

    @hookimpl
    def node(self) -> Node:
        return Node("clerk")

    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        try:
            size = (self.depot.disks / disk_id.native).stat().st_size
        except FileNotFoundError:
            raise DiskNotFound(f"There is no {disk_id}.") from None
        return Disk(disk_id, f"depot:{disk_id.native}", size)

    @hookimpl
    def find(self, query: Query) -> Page[Disk]:
        names = sorted(path.name for path in self.depot.disks.iterdir() if query.text in path.name)
        return Page(tuple(self.describe(DiskId(self.name, name)) for name in names))

    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        is_present = self.depot.tenure(_name(disk)) is not None
        return AttachPlan(disk, self.node(), access, str(uuid.uuid4()), is_present=is_present)

    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        owner = self.depot.attach(_name(plan.disk), plan.request_id)
        request_id = owner if owner == plan.request_id else ""
        return Attachment(plan.disk, plan.node, plan.access, plan.slot, request_id)

    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        tenure = self.depot.tenure(_name(disk))
        if tenure is None or tenure.state != "attached":
            return NotAttached("it is in the depot")
        path = self.depot.disks / _name(disk)
        status = path.stat()
        return Device(str(path), status.st_size, FileIdentity(status.st_dev, status.st_ino))

    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        self.depot.detach(_name(attachment.disk), attachment.request_id)


def _name(disk: Disk) -> str:
    return disk.canonical_id.removeprefix("depot:")


class DepotPlugin:
    """Offers a provider type whose providers share one depot."""

    def __init__(self, depot: Depot) -> None:
        self._type = type("BoundDepotProvider", (DepotProvider,), {"depot": depot})

    @hookimpl
    def register_providers(self) -> list[type]:
        return [self._type]
