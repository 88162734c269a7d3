"""Providers with one defect each in replacing."""

from dataclasses import replace

from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.core.model import (
    Access,
    Attachment,
    AttachPlan,
    Device,
    Disk,
    DiskId,
    NotAttached,
)
from tests.testing.broken.provider import Broken, failing


def _by_name(disk: Disk) -> Disk:
    return replace(disk, incarnation="", created_at=None)


@failing("test_a_name_that_is_used_again_is_another_disk")
class TellsNoIncarnation(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        return replace(super().describe(disk_id), incarnation="")


@failing("test_a_disk_that_was_replaced_gets_no_plan")
class PlansForTheName(Broken):
    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        return replace(super().plan_attach(_by_name(disk), access), disk=disk)


@failing(
    "test_a_disk_that_was_replaced_after_the_plan_is_not_attached",
    "test_a_disk_that_is_replaced_while_it_is_attached_is_released",
)
class AttachesWhatHasTheName(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        return super().attach(replace(plan, disk=_by_name(plan.disk)))


@failing("test_a_disk_that_is_replaced_while_it_is_attached_is_released")
class LooksBeforeTheAttachOnly(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        is_fresh = plan.request_id in self._fresh
        return super().attach(replace(plan, disk=_by_name(plan.disk)) if is_fresh else plan)


@failing("test_the_device_of_another_disk_with_the_name_is_not_the_disk_s")
class LocatesTheName(Broken):
    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        return super().locate(_by_name(disk))


@failing("test_another_disk_with_the_name_is_not_detached")
class DetachesTheName(Broken):
    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        super().detach(replace(attachment, disk=_by_name(attachment.disk), slot=""))
