"""The local provider passes the conformance suite, as far as there is no cloud in it."""

import secrets
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from cloudmanager.providers import local
from cloudmanager.testing.cloud.calls import CallLog
from cloudmanager.testing.conformance import Harness, ProviderConformance

NO_CLOUD = "there is no cloud that could fail, lag behind or be asked"
NO_ATTACHING = "disks are here all the time: attaching and detaching them changes nothing"
NO_SECRET = "it has no credentials"
MIB = 1024 * 1024


class LocalHarness(Harness):
    """Raw images in a directory."""

    plugin = local
    malformed_ids = ("../evidence.raw", "a\\..\\b/../..", "/etc/passwd")
    does_not_apply: ClassVar[dict[str, str]] = {
        "test_a_metadata_server_that_fails_ends_the_start_with_what_was_tried": NO_CLOUD,
        "test_no_secret_is_logged_or_shown": NO_SECRET,
        "test_every_error_of_the_cloud_has_its_class": NO_CLOUD,
        "test_attached_in_another_mode_is_a_conflict": NO_ATTACHING,
        "test_attached_elsewhere_names_the_holder_and_detaches_nothing": NO_ATTACHING,
        "test_at_the_limit_an_attach_fails_and_a_freed_slot_suffices": NO_ATTACHING,
        "test_an_attach_that_takes_its_time_is_waited_for": NO_CLOUD,
        "test_an_attach_that_hangs_is_an_error_within_its_bound": NO_CLOUD,
        "test_an_attach_that_describe_contradicts_is_an_error": NO_CLOUD,
        "test_a_stale_description_gives_no_false_success": NO_CLOUD,
        "test_one_disk_attached_by_several_threads_is_attached_once": NO_ATTACHING,
        "test_several_disks_attached_at_once_do_not_meet": NO_ATTACHING,
        "test_a_slot_that_is_taken_by_a_stranger_is_left_to_it": NO_ATTACHING,
        "test_a_read_only_attachment_is_read_only_or_says_that_it_is_not": NO_ATTACHING,
        "test_what_was_attached_by_hand_after_the_plan_is_foreign_and_stays": NO_ATTACHING,
        "test_what_is_attached_before_the_plan_is_noted_as_present": NO_ATTACHING,
        "test_detaching_again_succeeds": NO_ATTACHING,
        "test_detaching_from_a_machine_that_is_gone_succeeds": NO_CLOUD,
        "test_a_detach_that_takes_its_time_is_waited_for": NO_CLOUD,
        "test_a_detach_that_hangs_is_an_error_within_its_bound": NO_CLOUD,
        "test_a_detach_that_describe_contradicts_is_an_error": NO_CLOUD,
        "test_a_detach_after_an_attach_that_timed_out_leaves_nothing": NO_CLOUD,
        "test_an_attach_after_a_detach_that_timed_out_is_not_undone_by_it": NO_CLOUD,
        "test_a_link_that_is_wrong_misleads_nobody": NO_ATTACHING,
        "test_a_device_that_does_not_say_who_it_is_is_not_used": NO_ATTACHING,
        "test_a_device_that_says_it_is_another_is_not_used": NO_ATTACHING,
        "test_a_device_that_appears_late_is_waited_for": NO_ATTACHING,
        "test_a_device_that_does_not_appear_is_not_ready": NO_ATTACHING,
        "test_a_disk_that_is_not_attached_is_said_to_be_so": NO_ATTACHING,
        "test_a_cloud_that_cannot_be_asked_is_no_proof_of_absence": NO_CLOUD,
        "test_killed_after_any_call_of_an_attach_the_next_process_converges": NO_CLOUD,
        "test_killed_after_any_call_of_an_attach_a_detach_leaves_nothing": NO_CLOUD,
        "test_killed_after_any_call_of_a_detach_the_next_process_converges": NO_CLOUD,
    }

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._images = directory / "images"
        self._images.mkdir()
        self._numbers = count(1)
        self._calls = CallLog()

    def __exit__(self, *_: object) -> None:
        """The directory is pytest's."""

    def table(self) -> dict[str, Any]:
        return {"type": "local", "images": [str(self._images)]}

    def make_disk(
        self,
        name: str = "",
        *,
        location: str = "",  # noqa: ARG002 - there is one location
        is_shared: bool = False,  # noqa: ARG002 - there is one machine
    ) -> str:
        native = f"{name or f'evidence-{next(self._numbers)}'}.raw"
        (self._images / native).write_bytes(secrets.token_bytes(MIB))
        return native

    def content(self, disk: str) -> bytes:
        return (self._images / disk).read_bytes()[:4096]

    def missing_disk(self) -> str:
        return "nobody-has-this.raw"

    def other_locations(self) -> Sequence[str]:
        return ()

    def spellings(self, disk: str) -> Sequence[str]:
        return (str(self._images / disk), f"./{disk}")

    def delete_disk(self, disk: str) -> None:
        (self._images / disk).unlink()

    def make_pages_small(self) -> None:
        """Its pages are of one size; tests of its own go through several."""

    @property
    def calls(self) -> CallLog:
        return self._calls


class TestLocal(ProviderConformance):
    harness_type = LocalHarness
