"""The rules by which Azure attaches data disks to machines and takes them off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from cloudmanager.testing.cloud.azure import errors
from cloudmanager.testing.cloud.azure.errors import ArmError
from cloudmanager.testing.cloud.azure.resource_id import ResourceId
from cloudmanager.testing.cloud.azure.sizes import SIZES
from cloudmanager.testing.cloud.azure.state import DataDisk, Inventory, Machine, ManagedDisk

_LUNS = range(64)


@dataclass(frozen=True)
class AttachRequest:
    """One disk of a request to attach."""

    disk: ResourceId
    lun: int | None
    caching: str
    delete_option: str

    @classmethod
    def of(cls, member: Mapping[str, Any]) -> Self:
        return cls(
            resolve(member["diskId"]),
            member.get("lun"),
            member.get("caching") or "None",
            member.get("deleteOption") or "Detach",
        )


def resolve(disk_id: str) -> ResourceId:
    """Raises ArmError."""
    parsed = ResourceId.parse(disk_id)
    if parsed is None or parsed.kind.casefold() != "disks":
        raise errors.bad_value(disk_id, "diskId")
    return parsed


@dataclass(frozen=True)
class Change:
    """A request that was accepted: what becomes of the machine's model when it ends."""

    machine: Machine
    attached: tuple[DataDisk, ...]
    detached: tuple[DataDisk, ...]
    failure: ArmError | None
    """Known from the start, reported at the end."""


class Attachments:
    """Checks requests and changes the records. What happens in guests is up to the caller."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    def begin(self, machine: Machine, attach: Sequence[AttachRequest], detach: Sequence[ResourceId]) -> Change:
        """Puts the change into the machine's model. Raises ArmError for what Azure refuses at once."""
        if machine.is_busy:
            raise errors.busy()
        leaving = tuple(self._leaving(machine, disk) for disk in detach)
        failure = self._check_all(machine, attach, leaving)
        for entry in leaving:
            entry.to_be_detached = True
        added = tuple(self._enter(machine, wanted) for wanted in attach)
        machine.is_busy = True
        machine.provisioning_state = "Updating"
        machine.version += 1
        return Change(machine, added, leaving, failure)

    def complete(self, change: Change) -> None:
        """The change has been made: owners are set, and entries that leave are gone."""
        for entry in change.attached:
            if (disk := self._inventory.disks.get(entry.disk.key)) is not None:
                disk.owners.append(change.machine.id)
                disk.owned_since = datetime.now(UTC)
        for entry in change.detached:
            change.machine.data_disks.remove(entry)
            self._disown(entry.disk, change.machine)
        self._settle(change.machine, "Succeeded")

    def fail(self, change: Change) -> None:
        """The change was not made: what should have come is out of the model, what should have gone is still marked."""
        for entry in change.attached:
            change.machine.data_disks.remove(entry)
        self._settle(change.machine, "Failed")

    def forget(self, change: Change) -> None:
        """The change is reported as made, and was not."""
        for entry in change.attached:
            change.machine.data_disks.remove(entry)
        for entry in change.detached:
            entry.to_be_detached = False
        self._settle(change.machine, "Succeeded")

    def holders(self, disk: ResourceId) -> list[Machine]:
        """The machines whose model has the disk."""
        return [machine for machine in self._inventory.machines.values() if machine.entry(disk) is not None]

    @staticmethod
    def free_lun(machine: Machine) -> int:
        """The lowest one. Raises ArmError."""
        free = (lun for lun in _LUNS if machine.at(lun) is None)
        lun = next(free, None)
        if lun is None:
            raise errors.too_many_disks(len(_LUNS))
        return lun

    def _settle(self, machine: Machine, state: str) -> None:
        machine.is_busy = False
        machine.provisioning_state = state
        machine.version += 1

    def _disown(self, disk: ResourceId, machine: Machine) -> None:
        record = self._inventory.disks.get(disk.key)
        if record is not None:
            record.owners = [owner for owner in record.owners if owner.key != machine.id.key]
            record.owned_since = datetime.now(UTC)

    @staticmethod
    def _leaving(machine: Machine, disk: ResourceId) -> DataDisk:
        entry = machine.entry(disk)
        if entry is None:
            raise errors.not_attached(str(disk), machine.id.name)
        return entry

    def _enter(self, machine: Machine, wanted: AttachRequest) -> DataDisk:
        lun = self.free_lun(machine) if wanted.lun is None else wanted.lun
        entry = DataDisk(self._inventory.disk(wanted.disk).id, lun, wanted.caching, wanted.delete_option)
        machine.data_disks.append(entry)
        return entry

    def _check_all(
        self, machine: Machine, attach: Sequence[AttachRequest], leaving: Sequence[DataDisk]
    ) -> ArmError | None:
        limit = SIZES[machine.size].max_data_disks
        if len(machine.data_disks) - len(leaving) + len(attach) > limit and attach:
            raise errors.too_many_disks(limit)
        failures = [self._check(machine, wanted, attach) for wanted in attach]
        return next(filter(None, failures), None)

    def _check(self, machine: Machine, wanted: AttachRequest, attach: Sequence[AttachRequest]) -> ArmError | None:
        """Raises what is refused at once; answers with what is found out later."""
        disk = self._inventory.disks.get(wanted.disk.key)
        if disk is None:
            raise errors.no_such_disk(str(wanted.disk))
        self._check_place(machine, disk)
        self._check_lun(machine, wanted, attach)
        if disk.max_shares > 1 and wanted.caching != "None":
            raise errors.shared_disk_caching(disk.id.name)
        return self._check_owners(machine, disk)

    @staticmethod
    def _check_place(machine: Machine, disk: ManagedDisk) -> None:
        if disk.place.region != machine.place.region:
            raise errors.other_region(str(disk.id), disk.place.region, machine.place.region)
        if disk.is_zone_redundant or disk.place.zone == machine.place.zone:
            return
        if not disk.place.zone:
            raise errors.not_in_zone(str(disk.id), machine.place.zone)
        raise errors.other_zone(str(disk.id), machine.place.zone, disk.place.zone)

    @staticmethod
    def _check_lun(machine: Machine, wanted: AttachRequest, attach: Sequence[AttachRequest]) -> None:
        if wanted.lun is None:
            return
        if wanted.lun not in _LUNS:
            raise errors.lun_out_of_range(wanted.lun)
        if machine.at(wanted.lun) is not None or sum(other.lun == wanted.lun for other in attach) > 1:
            raise errors.lun_taken(wanted.lun)

    def _check_owners(self, machine: Machine, disk: ManagedDisk) -> ArmError | None:
        holders = self.holders(disk.id)
        for holder in holders:
            entry = holder.entry(disk.id)
            if entry is not None and entry.to_be_detached:
                raise errors.being_detached(disk.id.name, machine.id.name)
        if machine in holders:
            return errors.owned(str(disk.id), str(machine.id))
        if len(holders) < disk.max_shares:
            return None
        if not any(owner.key == holders[0].id.key for owner in disk.owners):
            raise errors.being_attached(disk.id.name, str(machine.id), str(holders[0].id), str(disk.id))
        return errors.owned(str(disk.id), str(holders[0].id))
