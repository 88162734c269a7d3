"""The Azure provider: its hooks."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from cloudmanager.core.errors import ConfigurationError
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
from cloudmanager.providers._disk_locks import DiskLocks
from cloudmanager.providers._errors import require_sdk
from cloudmanager.providers._waiting import Deadline
from cloudmanager.providers.azure.facts import DiskFacts, SnapshotFacts
from cloudmanager.providers.azure.machine import ThisMachine
from cloudmanager.providers.azure.resource_id import DISKS, SNAPSHOTS, ResourceId, Spelling
from cloudmanager.providers.azure.settings import AzureSettings

if TYPE_CHECKING:
    from cloudmanager.providers.azure.wiring import Parts


class AzureProvider:
    """The managed disks of one subscription, attached to the machine that this runs on.

    Azure attaches nothing read-only: the core keeps the device and the NBD server read-only where that is wanted.
    """

    type: ClassVar[str] = "azure"
    Settings = AzureSettings

    def __init__(self, name: str, settings: AzureSettings) -> None:
        """Makes no call yet. Raises MissingExtra."""
        require_sdk(["azure.mgmt.compute", "azure.identity"], "azure")
        self._name = name
        self._settings = settings
        self._machine = ThisMachine(settings, name)
        self._locks = DiskLocks()
        self._os_disk: ResourceId | None = None
        self._built: Parts | None = None
        self._lock = threading.Lock()

    @hookimpl
    def node(self) -> Node:
        return self._machine.node()

    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        id = self._named(disk_id.native, DISKS)
        if self._settings.resource_group or not Spelling.parse(disk_id.native, DISKS).is_bare:
            return self._disk(self._parts().compute.disk(id), disk_id)
        return self._disk(self._parts().listing.named(id.name, self._name))

    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        found = self._parts().listing.find(query, page_token)
        return Page(tuple(self._disk(disk) for disk in found.disks), found.next_page)

    @hookimpl
    def plan_attach(self, disk: Disk) -> AttachPlan:
        with self._existing_machine():
            return self._parts().attaching.plan(disk, self._resource(disk), self._machine.node())

    @hookimpl
    def attach(self, plan: AttachPlan, keep: Callable[[str], None]) -> Attachment:
        deadline = self._deadline(self._settings.attach_timeout_seconds)
        with self._existing_machine(), self._locks.locked(plan.disk.canonical_id):
            attachment = self._parts().attaching.attach(plan, self._resource(plan.disk), deadline, keep)
        self._parts().locating.attached(self._resource(plan.disk), int(attachment.slot))
        return attachment

    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        with self._existing_machine():
            deadline = self._deadline(self._settings.device_timeout_seconds)
            id = self._resource(disk)
            return self._parts().locating.locate(disk, id, deadline, self._parts().attaching.seen(id))

    @hookimpl
    def locate_all(self, disks: Sequence[Disk]) -> Mapping[DiskId, Device]:
        ids = {disk.id: self._resource(disk) for disk in disks}
        with self._existing_machine():
            located = self._parts().locating.locate_all(list(ids.values()))
        return {disk_id: located[id] for disk_id, id in ids.items() if id in located}

    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        deadline = self._deadline(self._settings.detach_timeout_seconds)
        with self._locks.locked(attachment.disk.canonical_id):
            self._parts().detaching.detach(attachment, self._resource(attachment.disk), deadline)

    @hookimpl
    def snapshot(self, disk: Disk, name: str) -> Snapshot:
        target = self._named(name, SNAPSHOTS)
        return self._snapshot(self._parts().copies.snapshot(disk, self._resource(disk), target, self._copy_deadline()))

    @hookimpl
    def restore(self, snapshot: Snapshot, name: str) -> Disk:
        source = self._named(snapshot.id.native, SNAPSHOTS)
        target = self._named(name, DISKS)
        made = self._parts().copies.restore(source, target, self._machine.place, self._copy_deadline())
        return self._disk(made)

    @hookimpl
    def delete(self, item: Disk | Snapshot) -> None:
        copies, deadline = self._parts().copies, self._copy_deadline()
        if isinstance(item, Disk):
            copies.delete_disk(item, self._resource(item), deadline)
        else:
            copies.delete_snapshot(self._named(item.id.native, SNAPSHOTS), deadline)

    @hookimpl
    def diagnose(self) -> Iterable[Finding]:
        from cloudmanager.providers.azure.doctor import diagnose  # noqa: PLC0415 - it imports the SDK

        return list(diagnose(self._machine, self._parts, self._settings.find_in))

    def _parts(self) -> "Parts":
        """Built at the first call: only then it is known which subscription this is about."""
        from cloudmanager.providers.azure.wiring import Parts  # noqa: PLC0415 - it imports the SDK

        with self._lock:
            if self._built is None:
                self._built = Parts.build(self._settings, self._machine)
            return self._built

    def _resource(self, disk: Disk) -> ResourceId:
        """By its canonical id where the name means another disk by now: the settings may have changed since.

        Raises InvalidDiskId when they have another subscription now.
        """
        named = self._named(disk.id.native, DISKS)
        canonical = ResourceId.of_canonical(disk.canonical_id)
        return named if canonical is None or canonical.key == named.key else self._named(str(canonical), DISKS)

    def _named(self, native: str, kind: str) -> ResourceId:
        """Raises InvalidDiskId, before anybody is asked anything."""
        spelling = Spelling.parse(native, kind)
        return spelling.resolve(self._machine.subscription, self._machine.group)

    def _deadline(self, seconds: float) -> Deadline:
        return Deadline(seconds, interval=self._settings.poll_seconds)

    def _copy_deadline(self) -> Deadline:
        return self._deadline(self._settings.copy_timeout_seconds)

    def _disk(self, facts: DiskFacts, asked: DiskId | None = None) -> Disk:
        is_attached = facts.is_owned_by(self._machine.id)
        is_boot = is_attached and facts.has_system and self._is_boot(facts.id)
        shares = f", shared by up to {facts.max_shares}" if facts.max_shares > 1 else ""
        return Disk(
            asked or DiskId(self._name, facts.id.short),
            facts.id.canonical,
            facts.size_bytes,
            location=str(facts.place),
            description=f"{facts.sku}, {facts.state}{shares}",
            labels=facts.tags,
            access=frozenset(Access) - ({Access.READ_WRITE} if is_boot else set()),
            held_by=tuple(owner.name for owner in facts.others(self._machine.id)),
            created_at=facts.created_at,
            logical_sector_bytes=facts.logical_sector_bytes,
            incarnation=facts.unique_id,
            is_attached=is_attached,
            is_boot=is_boot,
        )

    def _is_boot(self, disk: ResourceId) -> bool:
        """Of a disk of this machine that has a system on it. The answer never changes while the machine runs."""
        if self._os_disk is None:
            self._os_disk = self._parts().compute.machine(self._machine.id).os_disk
        return self._os_disk is not None and self._os_disk.key == disk.key

    def _snapshot(self, facts: SnapshotFacts) -> Snapshot:
        return Snapshot(DiskId(self._name, facts.id.short), facts.size_bytes, str(facts.place))

    @contextmanager
    def _existing_machine(self) -> Iterator[None]:
        """Raises ConfigurationError where Azure does not know the machine that this is said to be."""
        from cloudmanager.providers.azure.errors import MachineGone  # noqa: PLC0415 - it imports the SDK

        try:
            yield
        except MachineGone as error:
            raise ConfigurationError(
                f"[providers.{self._name}] Azure has no virtual machine {self._machine.id}: correct vm, or leave it "
                "empty, so that the metadata server is asked."
            ) from error
