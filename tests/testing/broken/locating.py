"""Providers with one defect each in locating."""

from collections.abc import Mapping, Sequence

from cloudmanager.core.errors import (
    CloudManagerError,
    DeviceNotReady,
)
from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.core.model import (
    Access,
    Attachment,
    AttachPlan,
    Device,
    Disk,
    DiskId,
    FileIdentity,
    NotAttached,
)
from cloudmanager.providers.gce.locating import present
from cloudmanager.providers.gce.settings import GceSettings
from tests.testing.broken.attaching import AlwaysAsks
from tests.testing.broken.provider import Broken, failing


@failing(
    "test_a_link_that_is_wrong_misleads_nobody[link_missing]",
    "test_a_link_that_is_wrong_misleads_nobody[link_stale]",
    "test_a_link_that_is_wrong_misleads_nobody[link_swapped]",
    "test_a_link_that_is_wrong_misleads_nobody[link_to_partition]",
    "test_a_link_that_is_wrong_misleads_nobody[link_to_controller]",
    "test_a_device_that_does_not_say_who_it_is_is_not_used",
    "test_a_device_that_says_it_is_another_is_not_used",
    "test_a_device_that_appears_late_is_waited_for",
)
class FollowsLinks(Broken):
    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        slot = self._parts().instance.look().slots[self._named(disk.id.native).path]
        node = (self._settings.dev_root / "disk/by-id" / f"google-{slot.device_name}").resolve()
        if not node.exists():
            node = self._settings.dev_root / "sda"
        return Device(str(node), disk.size_bytes, FileIdentity(node.stat().st_rdev, 0), is_block=True)


@failing("test_a_device_that_does_not_appear_is_not_ready")
class TakesMissingForAbsent(Broken):
    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        try:
            return super().locate(disk)
        except DeviceNotReady:
            return NotAttached()


@failing("test_a_disk_that_is_not_attached_is_said_to_be_so")
class TakesAbsentForMissing(Broken):
    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        found = super().locate(disk)
        if isinstance(found, NotAttached):
            raise DeviceNotReady("It has not appeared yet.")
        return found


@failing("test_a_cloud_that_cannot_be_asked_is_no_proof_of_absence")
class TakesUnknownForAbsent(Broken):
    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        try:
            return super().locate(disk)
        except CloudManagerError:
            return NotAttached()


@failing("test_locating_changes_nothing")
class AttachesWhileItLocates(Broken):
    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        AlwaysAsks.attach(self, super().plan_attach(disk, Access.READ_WRITE))  # type: ignore[arg-type]
        return super().locate(disk)


@failing("test_looking_at_all_disks_agrees_with_locating_each")
class MixesThemUp(Broken):
    @hookimpl
    def locate_all(self, disks: Sequence[Disk]) -> Mapping[DiskId, Device]:
        located = super().locate_all(disks)
        return dict(zip(located, reversed(list(located.values())), strict=True))


@failing("test_looking_at_all_disks_costs_no_more_calls_than_looking_at_one")
class LooksAtEach(Broken):
    @hookimpl
    def locate_all(self, disks: Sequence[Disk]) -> Mapping[DiskId, Device]:
        return {disk.id: super(LooksAtEach, self).locate_all([disk])[disk.id] for disk in disks}


@failing("test_a_disk_that_was_detached_by_hand_is_not_said_to_be_there")
class TrustsTheDevice(Broken):
    def __init__(self, name: str, settings: GceSettings) -> None:
        super().__init__(name, settings)
        self._slots: dict[DiskId, str] = {}

    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        self._slots[plan.disk.id] = plan.slot
        return super().attach(plan)

    @hookimpl
    def locate_all(self) -> Mapping[DiskId, Device]:  # type: ignore[override]
        there = present(self._settings.block_devices, set(self._slots.values()))
        return {id: there[slot] for id, slot in self._slots.items() if slot in there}


@failing("test_looking_at_all_disks_says_so_when_the_cloud_cannot_be_asked")
class TakesNoAnswerForNothingNew(Broken):
    @hookimpl
    def locate_all(self, disks: Sequence[Disk]) -> Mapping[DiskId, Device]:
        try:
            return super().locate_all(disks)
        except CloudManagerError:
            return {}
