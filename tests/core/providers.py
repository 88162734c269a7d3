"""Small providers and plugins for the tests of the core."""

import threading
from dataclasses import dataclass, field, replace
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
from cloudmanager.core.errors import CloudManagerError, DiskNotFound


@dataclass
class Shelf:
    """The cloud of `ShelfProvider`: image files that must be taken from a shelf before they can be read."""

    directory: Path
    attached: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    failures: dict[str, list[CloudManagerError]] = field(default_factory=dict)
    """Errors that the next calls of a hook raise, in their order."""
    foreign: set[str] = field(default_factory=set)
    access: frozenset[Access] = frozenset(Access)
    attached_by_others: set[str] = field(default_factory=set)
    """What turns out to be attached already when the planned attach is tried."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Attaching waits for it."""
    incarnations: dict[str, str] = field(default_factory=dict)
    """Of a disk, by its name: `describe` tells it, and nothing else does."""

    def __post_init__(self) -> None:
        self.gate.set()

    def replace(self, name: str, content: bytes, incarnation: str = "2") -> None:
        """Another disk has the name from now on; it is attached where the old one was."""
        new = self.directory / "new"
        new.write_bytes(content)
        new.rename(self.directory / name)
        self.incarnations[name] = incarnation

    def note(self, hook: str, disk: str) -> None:
        self.calls.append(f"{hook} {disk}")
        if self.failures.get(hook):
            raise self.failures[hook].pop(0)


class ShelfSettings(BaseModel):
    model_config = {"extra": "forbid"}
    read_only_attach: bool = True


class ShelfProvider:
    """A complete provider with an attach that is a step of its own."""

    type = "shelf"
    Settings = ShelfSettings
    shelf: Shelf

    def __init__(self, name: str, settings: ShelfSettings) -> None:
        self.name = name
        self.settings = settings

    @hookimpl
    def node(self) -> Node:
        return Node("librarian")

    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        self.shelf.note("describe", disk_id.native)
        path = self.shelf.directory / disk_id.native.lower()
        if not path.is_file():
            raise DiskNotFound(f"There is no {disk_id}.")
        return Disk(
            disk_id,
            f"shelf:{path.name}",
            path.stat().st_size,
            access=self.shelf.access,
            incarnation=self.shelf.incarnations.get(path.name, ""),
        )

    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        names = sorted(each.name for each in self.shelf.directory.iterdir() if query.text in each.name)
        names = [name for name in names if name > (page_token or "")]
        disks = tuple(self.describe(DiskId(self.name, name)) for name in names[:2])
        return Page(disks, names[1] if len(names) > 2 else None)

    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        self.shelf.note("plan_attach", disk.canonical_id)
        mode = access if self.settings.read_only_attach else Access.READ_WRITE
        return AttachPlan(disk, self.node(), mode, "request", is_present=disk.canonical_id in self.shelf.foreign)

    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        self.shelf.gate.wait(30)
        self.shelf.note("attach", plan.disk.canonical_id)
        self.shelf.attached.add(plan.disk.canonical_id)
        if plan.disk.canonical_id in self.shelf.attached_by_others:
            return replace(plan.attachment(), request_id="")
        return plan.attachment()

    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        self.shelf.note("locate", disk.canonical_id)
        if disk.canonical_id not in self.shelf.attached | self.shelf.foreign:
            return NotAttached("it is on the shelf")
        path = self.shelf.directory / disk.canonical_id.removeprefix("shelf:")
        found = path.stat()
        return Device(str(path), found.st_size, FileIdentity(found.st_dev, found.st_ino))

    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        self.shelf.note("detach", attachment.disk.canonical_id)
        self.shelf.attached.discard(attachment.disk.canonical_id)


class ShelfPlugin:
    """Offers a provider type whose providers share one shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._type = type("BoundShelfProvider", (ShelfProvider,), {"shelf": shelf})

    @hookimpl
    def register_providers(self) -> list[type]:
        return [self._type]
