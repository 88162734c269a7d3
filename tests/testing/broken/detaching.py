"""Providers with one defect each in detaching."""

from cloudmanager.core.errors import (
    CloudError,
    CloudUnavailable,
)
from cloudmanager.core.hookspecs import hookimpl
from cloudmanager.core.model import (
    Attachment,
    AttachPlan,
)
from cloudmanager.providers.gce.resource_id import ResourceId
from cloudmanager.providers.gce.settings import GceSettings
from tests.testing.broken.provider import Broken, failing


@failing(
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


@failing("test_detaching_a_disk_that_is_gone_succeeds")
class DescribesBeforeItDetaches(Broken):
    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        self.describe(attachment.disk.id)
        super().detach(attachment)


@failing("test_detaching_touches_this_machine_only")
class DetachesEverywhere(Broken):
    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        super().detach(attachment)
        compute, disk = self._parts().compute, self._named(attachment.disk.id.native)
        for link in compute.disk(disk).users:
            holder = ResourceId.from_link(link)
            found = compute.instance(holder)
            for item in found.disks if found else ():
                if item.source.endswith(disk.path):
                    compute.detach(holder, item.device_name)


@failing(
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


@failing("test_a_detach_after_an_attach_that_timed_out_leaves_nothing")
class SeesNoPendingAttach(Broken):
    @hookimpl
    def detach(self, attachment: Attachment) -> None:
        if self._named(attachment.disk.id.native).path in self._parts().instance.look().slots:
            super().detach(attachment)


@failing("test_an_attach_after_a_detach_that_timed_out_is_not_undone_by_it")
class SeesNoPendingDetach(Broken):
    @hookimpl
    def attach(self, plan: AttachPlan) -> Attachment:
        if self._named(plan.disk.id.native).path in self._parts().instance.look().slots:
            return plan.attachment()
        return super().attach(plan)


@failing(
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
