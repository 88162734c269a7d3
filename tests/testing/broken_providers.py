"""Providers with one defect each: what the conformance suite must not let pass.

Each names the checks that it must fail.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

from cloudmanager.core.errors import (
    AccessConflict,
    AttachLimit,
    CloudError,
    CloudManagerError,
    CloudUnavailable,
    ConfigurationError,
    DeviceNotReady,
    DiskInUse,
    DiskNotFound,
)
from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.core.model import (
    CONFIRMED,
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
    Snapshot,
)
from cloudmanager.providers.gce.locating import present
from cloudmanager.providers.gce.provider import GceProvider
from cloudmanager.providers.gce.resource_id import Resource
from cloudmanager.providers.gce.settings import GceSettings


class Broken(GceProvider):
    """`fails` names the checks: `describing[x]` is a check with a parameter whose id is x."""

    fails: ClassVar[tuple[str, ...]] = ()


def _failing(*checks: str) -> Callable[[type[Broken]], type[Broken]]:
    def declare(provider: type[Broken]) -> type[Broken]:
        provider.fails = checks
        ALL.append(provider)
        return provider

    return declare


ALL: list[type[Broken]] = []


# Describing


@_failing("test_malformed_ids_are_refused_without_asking_the_cloud")
class AsksAboutAnyId(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        self._parts().instance.look()
        return super().describe(disk_id)


@_failing("test_malformed_ids_are_refused_without_asking_the_cloud")
class FindsNoneForAnyId(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        raise DiskNotFound(f"There is no {disk_id}.")


@_failing("test_an_unknown_disk_is_not_found", "test_what_was_made_is_deleted_and_nothing_else")
class InventsDisks(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        try:
            return super().describe(disk_id)
        except DiskNotFound:
            return Disk(disk_id, "gce://invented", 0)


@_failing("test_every_spelling_of_a_disk_has_one_canonical_id")
class BelievesSpellings(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        return replace(super().describe(disk_id), canonical_id=f"gce://{disk_id.native}")


@_failing("test_two_providers_of_one_account_give_a_disk_one_canonical_id")
class NamesItselfInIds(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        return replace(super().describe(disk_id), canonical_id=str(disk_id))


@_failing("test_different_disks_have_different_canonical_ids")
class KnowsBareNamesOnly(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        disk = super().describe(disk_id)
        return replace(disk, canonical_id=disk.canonical_id.rpartition("/")[2])


@_failing("test_listing_finds_every_location_and_page")
class ListsOnePage(Broken):
    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        return replace(super().find(query, page_token), next_page=None)


@_failing("test_listing_finds_every_location_and_page")
class ListsItsZone(Broken):
    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        return super().find(replace(query, location=self.node().location), page_token)


@_failing("test_listing_restricts_by_name_and_location")
class IgnoresQueries(Broken):
    @hookimpl
    def find(self, page_token: str | None) -> Page[Disk]:  # type: ignore[override] # pluggy's way
        return super().find(Query(), page_token)


@_failing("test_a_listed_disk_is_described_alike")
class ListsHalf(Broken):
    @hookimpl
    def find(self, query: Query, page_token: str | None) -> Page[Disk]:
        page = super().find(query, page_token)
        return replace(page, items=tuple(replace(disk, size_bytes=0) for disk in page.items))


@_failing(
    "test_a_metadata_server_that_fails_ends_the_start_with_what_was_tried[metadata_absent]",
    "test_a_metadata_server_that_fails_ends_the_start_with_what_was_tried[metadata_slow]",
    "test_a_metadata_server_that_fails_ends_the_start_with_what_was_tried[metadata_refusing]",
)
class GuessesWhereItIs(Broken):
    @hookimpl
    def node(self) -> Node:
        try:
            return super().node()
        except ConfigurationError:
            return Node("localhost")


@_failing("test_no_secret_is_logged_or_shown")
class LogsItsCredentials(Broken):
    @hookimpl
    def node(self) -> Node:
        logging.getLogger("broken").debug(Path(os.environ["GOOGLE_APPLICATION_CREDENTIALS"]).read_text())
        return super().node()


# Attaching


@_failing(
    "test_attaching_again_gives_the_same_answer_and_changes_nothing",
    "test_one_disk_attached_by_several_threads_is_attached_once",
)
class AlwaysAsks(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        parts = self._parts()
        return parts.attaching.attach(plan, self._named(plan.disk.id.native), is_fresh=True)


@_failing("test_attached_in_another_mode_is_a_conflict")
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


@_failing("test_attached_elsewhere_names_the_holder_and_detaches_nothing")
class Steals(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        try:
            return super().attach(plan)
        except DiskInUse:
            compute, disk = self._parts().compute, self._named(plan.disk.id.native)
            for link in compute.disk(disk).users:
                holder = Resource.from_link(link)
                found = compute.instance(holder)
                slots = [item.device_name for item in found.disks if item.source.endswith(disk.path)] if found else []
                compute.detach(holder, slots[0])
            return super().attach(plan)


@_failing("test_at_the_limit_an_attach_fails_and_a_freed_slot_suffices")
class HidesLimits(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        try:
            return super().attach(plan)
        except AttachLimit as error:
            raise CloudUnavailable(error.detail) from error


@_failing(
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


@_failing(
    "test_an_attach_that_takes_its_time_is_waited_for",
    "test_a_detach_that_takes_its_time_is_waited_for",
)
class GivesUpAtOnce(Broken):
    def __init__(self, name: str, settings: GceSettings) -> None:
        impatient = {"attach_timeout_seconds": 0.01, "detach_timeout_seconds": 0.01}
        super().__init__(name, settings.model_copy(update=impatient))


@_failing(
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


@_failing(
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


@_failing(
    "test_several_disks_attached_at_once_do_not_meet",
    "test_a_slot_that_is_taken_by_a_stranger_is_left_to_it",
)
class HasOneName(Broken):
    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        return replace(super().plan_attach(disk, access), slot="cm-disk")


@_failing("test_a_read_only_attachment_is_read_only_or_says_that_it_is_not")
class WritesSilently(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        return replace(super().attach(replace(plan, access=Access.READ_WRITE)), access=plan.access)


@_failing("test_a_shared_disk_is_attached_beside_others", "test_detaching_touches_this_machine_only")
class SharesNothing(Broken):
    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        if disk.held_by:
            raise DiskInUse("It is attached elsewhere.", holder=disk.held_by[0])
        return super().plan_attach(disk, access)


@_failing(
    "test_an_attach_that_was_planned_by_a_process_that_died_is_ours",
    "test_killed_after_any_call_of_an_attach_the_next_process_converges",
)
class KnowsItsOwnPlansOnly(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        is_mine = plan.request_id in self._fresh
        attachment = super().attach(plan)
        return attachment if is_mine else replace(attachment, request_id="")


@_failing("test_what_was_attached_by_hand_after_the_plan_is_foreign_and_stays")
class ClaimsEverything(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        return replace(super().attach(plan), request_id=plan.request_id)


@_failing("test_what_was_attached_by_hand_after_the_plan_is_foreign_and_stays")
class DetachesWhateverIsThere(Broken):
    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        super().detach(replace(attachment, slot=""))


@_failing(
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


@_failing("test_what_is_attached_before_the_plan_is_noted_as_present")
class SeesNothingPresent(Broken):
    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        return replace(super().plan_attach(disk, access), is_present=False)


# Detaching


@_failing(
    "test_detaching_again_succeeds",
    "test_detaching_what_was_never_attached_succeeds",
    "test_detaching_from_a_machine_that_is_gone_succeeds",
)
class MissesWhatIsGone(Broken):
    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        if self._named(attachment.disk.id.native).path not in self._parts().instance.look().slots:
            raise CloudError("It is not attached.")
        super().detach(attachment)


@_failing("test_detaching_a_disk_that_is_gone_succeeds")
class DescribesBeforeItDetaches(Broken):
    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        self.describe(attachment.disk.id)
        super().detach(attachment)


@_failing("test_detaching_touches_this_machine_only")
class DetachesEverywhere(Broken):
    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        super().detach(attachment)
        compute, disk = self._parts().compute, self._named(attachment.disk.id.native)
        for link in compute.disk(disk).users:
            holder = Resource.from_link(link)
            found = compute.instance(holder)
            for item in found.disks if found else ():
                if item.source.endswith(disk.path):
                    compute.detach(holder, item.device_name)


@_failing(
    "test_a_detach_that_describe_contradicts_is_an_error",
    "test_a_detach_that_hangs_is_an_error_within_its_bound",
)
class BelievesDetaches(Broken):
    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        try:
            super().detach(attachment)
        except CloudUnavailable:
            return


@_failing("test_a_detach_after_an_attach_that_timed_out_leaves_nothing")
class SeesNoPendingAttach(Broken):
    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        if self._named(attachment.disk.id.native).path in self._parts().instance.look().slots:
            super().detach(attachment)


@_failing("test_an_attach_after_a_detach_that_timed_out_is_not_undone_by_it")
class SeesNoPendingDetach(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        if self._named(plan.disk.id.native).path in self._parts().instance.look().slots:
            return plan.attachment()
        return super().attach(plan)


@_failing(
    "test_killed_after_any_call_of_a_detach_the_next_process_converges",
    "test_killed_after_any_call_of_an_attach_a_detach_leaves_nothing",
)
class DetachesWhatItRemembers(Broken):
    def __init__(self, name: str, settings: GceSettings) -> None:
        super().__init__(name, settings)
        self._attached: set[str] = set()

    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        self._attached.add(plan.slot)
        return super().attach(plan)

    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        if attachment.slot in self._attached:
            super().detach(attachment)


# Locating


@_failing(
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


@_failing("test_a_device_that_does_not_appear_is_not_ready")
class TakesMissingForAbsent(Broken):
    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        try:
            return super().locate(disk)
        except DeviceNotReady:
            return NotAttached()


@_failing("test_a_disk_that_is_not_attached_is_said_to_be_so")
class TakesAbsentForMissing(Broken):
    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        found = super().locate(disk)
        if isinstance(found, NotAttached):
            raise DeviceNotReady("It has not appeared yet.")
        return found


@_failing("test_a_cloud_that_cannot_be_asked_is_no_proof_of_absence")
class TakesUnknownForAbsent(Broken):
    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        try:
            return super().locate(disk)
        except CloudManagerError:
            return NotAttached()


@_failing("test_locating_changes_nothing")
class AttachesWhileItLocates(Broken):
    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        AlwaysAsks.attach(self, super().plan_attach(disk, Access.READ_WRITE))  # type: ignore[arg-type]
        return super().locate(disk)


@_failing("test_looking_at_all_disks_agrees_with_locating_each")
class MixesThemUp(Broken):
    @hookimpl
    def locate_all(self, disks: Sequence[Disk]) -> Mapping[DiskId, Device]:
        located = super().locate_all(disks)
        return dict(zip(located, reversed(list(located.values())), strict=True))


@_failing("test_looking_at_all_disks_costs_no_more_calls_than_looking_at_one")
class LooksAtEach(Broken):
    @hookimpl
    def locate_all(self, disks: Sequence[Disk]) -> Mapping[DiskId, Device]:
        return {disk.id: super(LooksAtEach, self).locate_all([disk])[disk.id] for disk in disks}


@_failing("test_a_disk_that_was_detached_by_hand_is_not_said_to_be_there")
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


@_failing("test_looking_at_all_disks_says_so_when_the_cloud_cannot_be_asked")
class TakesNoAnswerForNothingNew(Broken):
    @hookimpl
    def locate_all(self, disks: Sequence[Disk]) -> Mapping[DiskId, Device]:
        try:
            return super().locate_all(disks)
        except CloudManagerError:
            return {}


# Names that are used again


def _by_name(disk: Disk) -> Disk:
    return replace(disk, incarnation="", created_at=None)


@_failing("test_a_name_that_is_used_again_is_another_disk")
class TellsNoIncarnation(Broken):
    @hookimpl
    def describe(self, disk_id: DiskId) -> Disk:
        return replace(super().describe(disk_id), incarnation="")


@_failing("test_a_disk_that_was_replaced_gets_no_plan")
class PlansForTheName(Broken):
    @hookimpl
    def plan_attach(self, disk: Disk, access: Access) -> AttachPlan:
        return replace(super().plan_attach(_by_name(disk), access), disk=disk)


@_failing(
    "test_a_disk_that_was_replaced_after_the_plan_is_not_attached",
    "test_a_disk_that_is_replaced_while_it_is_attached_is_let_go_of_again",
)
class AttachesWhatHasTheName(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        return super().attach(replace(plan, disk=_by_name(plan.disk)))


@_failing("test_a_disk_that_is_replaced_while_it_is_attached_is_let_go_of_again")
class LooksBeforeTheAttachOnly(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        is_fresh = plan.request_id in self._fresh
        return super().attach(replace(plan, disk=_by_name(plan.disk)) if is_fresh else plan)


@_failing("test_the_device_of_another_disk_with_the_name_is_not_the_disk_s")
class LocatesTheName(Broken):
    @hookimpl
    def locate(self, disk: Disk) -> Device | NotAttached:
        return super().locate(_by_name(disk))


@_failing("test_another_disk_with_the_name_is_not_detached")
class DetachesTheName(Broken):
    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        super().detach(replace(attachment, disk=_by_name(attachment.disk), slot=""))


# Copying


@_failing("test_declared_capabilities_are_those_that_are_offered")
class DeletesNothing(Broken):
    delete = None  # type: ignore[assignment]


@_failing("test_a_disk_that_is_held_elsewhere_is_copied_and_the_copy_attached")
class RestoresAnother(Broken):
    @hookimpl
    def restore(self) -> Disk:  # type: ignore[override]
        return self.describe(DiskId(self._name, self.node().name))


@_failing("test_a_copy_is_made_once")
class CopiesAgain(Broken):
    @hookimpl
    def snapshot(self, disk: Disk, name: str) -> Snapshot:
        return super().snapshot(disk, f"{name}-{uuid4().hex[:8]}")


@_failing("test_what_was_made_is_deleted_and_nothing_else")
class DeletesAnything(Broken):
    @hookimpl
    def delete(self, item: Disk | Snapshot) -> None:
        if isinstance(item, Disk):
            self._parts().compute.delete_disk(self._named(item.id.native))
        else:
            super().delete(item)
