"""Providers with one defect each in attaching."""

from dataclasses import replace

from cloudmanager.core.errors import (
    AccessConflict,
    AttachLimit,
    CloudError,
    CloudManagerError,
    CloudUnavailable,
    DiskInUse,
)
from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.core.model import (
    CONFIRMED,
    Access,
    Attachment,
    AttachPlan,
    Disk,
)
from cloudmanager.providers.gce.resource_id import ResourceId
from cloudmanager.providers.gce.settings import GceSettings
from tests.testing.broken.provider import Broken, failing


@failing(
    "test_attaching_again_gives_the_same_answer_and_changes_nothing",
    "test_one_disk_attached_by_several_threads_is_attached_once",
)
class AlwaysAsks(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        parts = self._parts()
        return parts.attaching.attach(plan, self._named(plan.disk.id.native), is_fresh=True)


@failing("test_attached_in_another_mode_is_a_conflict")
class IgnoresModes(Broken):
    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        try:
            return super().plan_attach(disk, access)
        except AccessConflict:
            return replace(super().plan_attach(disk, Access.READ_ONLY), access=access)

    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        try:
            return super().attach(plan)
        except AccessConflict:
            return plan.attachment()


@failing("test_attached_elsewhere_names_the_holder_and_detaches_nothing")
class Steals(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        try:
            return super().attach(plan)
        except DiskInUse:
            compute, disk = self._parts().compute, self._named(plan.disk.id.native)
            for link in compute.disk(disk).users:
                holder = ResourceId.from_link(link)
                found = compute.instance(holder)
                slots = [item.device_name for item in found.disks if item.source.endswith(disk.path)] if found else []
                compute.detach(holder, slots[0])
            return super().attach(plan)


@failing("test_at_the_limit_an_attach_fails_and_a_freed_slot_suffices")
class HidesLimits(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        try:
            return super().attach(plan)
        except AttachLimit as error:
            raise CloudUnavailable(error.detail) from error


@failing(
    "test_every_error_of_the_cloud_has_its_class[attach-throttle-pending]",
    "test_every_error_of_the_cloud_has_its_class[attach-error-forbidden]",
)
class LosesTheOriginal(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        try:
            return super().attach(plan)
        except CloudManagerError as error:
            raise type(error)(error.detail) from error


@failing(
    "test_an_attach_that_takes_its_time_is_waited_for",
    "test_a_detach_that_takes_its_time_is_waited_for",
)
class GivesUpAtOnce(Broken):
    def __init__(self, name: str, settings: GceSettings) -> None:
        impatient = {"attach_timeout_seconds": 0.01, "detach_timeout_seconds": 0.01}
        super().__init__(name, settings.model_copy(update=impatient))


@failing(
    "test_an_attach_that_hangs_is_an_error_within_its_bound",
    "test_a_detach_that_hangs_is_an_error_within_its_bound",
    "test_a_detach_after_an_attach_that_timed_out_leaves_nothing",
)
class EndsTheTrying(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        try:
            return super().attach(plan)
        except CloudUnavailable as error:
            raise CloudError(error.detail) from error

    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        try:
            super().detach(attachment)
        except CloudUnavailable as error:
            raise CloudError(error.detail) from error


@failing(
    "test_an_attach_that_describe_contradicts_is_an_error",
    "test_a_stale_description_gives_no_false_success",
)
class BelievesOperations(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        try:
            return super().attach(plan)
        except CloudUnavailable:
            return plan.attachment()


@failing(
    "test_several_disks_attached_at_once_do_not_meet",
    "test_a_slot_that_is_taken_by_a_stranger_is_left_to_it",
)
class HasOneName(Broken):
    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        return replace(super().plan_attach(disk, access), slot="cm-disk")


@failing("test_a_read_only_attachment_is_read_only_or_says_that_it_is_not")
class WritesSilently(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        return replace(super().attach(replace(plan, access=Access.READ_WRITE)), access=plan.access)


@failing("test_a_shared_disk_is_attached_beside_others", "test_detaching_touches_this_machine_only")
class SharesNothing(Broken):
    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        if disk.held_by:
            raise DiskInUse("It is attached elsewhere.", holder=disk.held_by[0])
        return super().plan_attach(disk, access)


@failing(
    "test_an_attach_that_was_planned_by_a_process_that_died_is_ours",
    "test_killed_after_any_call_of_an_attach_the_next_process_converges",
)
class KnowsItsOwnPlansOnly(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        is_mine = plan.request_id in self._fresh
        attachment = super().attach(plan)
        return attachment if is_mine else replace(attachment, request_id="")


@failing("test_what_was_attached_by_hand_after_the_plan_is_foreign_and_stays")
class ClaimsEverything(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        return replace(super().attach(plan), request_id=plan.request_id)


@failing("test_what_was_attached_by_hand_after_the_plan_is_foreign_and_stays")
class DetachesWhateverIsThere(Broken):
    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        super().detach(replace(attachment, slot=""))


@failing(
    "test_what_was_attached_by_hand_at_the_very_slot_of_the_plan_is_foreign_and_stays",
    "test_a_request_that_came_too_late_proves_nothing",
)
class TakesThePlaceForProof(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        done = super().attach(plan)
        return plan.attachment() if done.slot == plan.slot else done

    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        super().detach(replace(attachment, proof=CONFIRMED))


@failing("test_what_is_attached_before_the_plan_is_noted_as_present")
class SeesNothingPresent(Broken):
    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        return replace(super().plan_attach(disk, access), is_present=False)
