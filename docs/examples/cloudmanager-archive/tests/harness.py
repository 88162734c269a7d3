"""The world in which the provider is certified: an archive, the workspace of this machine, and that of another."""

import secrets
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, Self

from cloudmanager import Disk, DiskId, errors
from cloudmanager.testing.cloud.calls import CallLog
from cloudmanager.testing.conformance import ErrorCase, Harness, Trouble

import cloudmanager_archive
from cloudmanager_archive import PAGE_SIZE, copy_name
from file_calls import FileCalls

MOST_COPIES = 6
BY_HAND = "by-hand"
SECRET_SLOT = "a slot is a new UUID of the plan's own: a copy with that name proves who made it"
NO_CLOUD = "the provider makes the copy itself: there is nobody else who could hang, be late, lie or be out of date"
NO_LINKS = "a copy is found by its name in the workspace, not by a link"
NO_IDENTITY = "a copy says nothing of itself but its size, and tests/test_copies.py checks that"
NO_DELAY = "a copy is there when attach returns"


class ArchiveHarness(Harness):
    plugin = cloudmanager_archive
    node_name = "here"
    malformed_ids = ("a/b", "../case.raw", ".hidden", "/case.raw", "copies/", "copies/a/b", "snapshots/case.raw")
    supports_read_only_attach = True
    supports_sharing = True
    capabilities = frozenset({"snapshot", "restore", "delete"})
    error_cases = (
        ErrorCase(
            "describe with the archive away",
            "describe",
            lambda harness, _: harness.inject(Trouble.READS_FAIL),
            errors.CloudUnavailable,
            retriable=True,
            cloud_code="ENOENT",
        ),
        ErrorCase(
            "attach with the archive away",
            "attach",
            lambda harness, _: harness.inject(Trouble.READS_FAIL),
            errors.CloudUnavailable,
            retriable=True,
            cloud_code="ENOENT",
        ),
        ErrorCase(
            "attach an image that was deleted",
            "attach",
            lambda harness, disk: harness.delete_disk(disk),
            errors.DiskNotFound,
            retriable=False,
        ),
        ErrorCase(
            "detach with the workspace away",
            "detach",
            lambda harness, _: harness.inject(Trouble.READS_FAIL),
            errors.CloudUnavailable,
            retriable=True,
            cloud_code="ENOENT",
        ),
    )
    does_not_apply = {
        "test_a_metadata_server_that_fails_ends_the_start_with_what_was_tried": "there is no metadata server",
        "test_attached_in_another_mode_is_a_conflict": "copies are read-only, so there is no other mode",
        "test_attached_elsewhere_names_the_holder_and_detaches_nothing": "every machine may have a copy of its own",
        "test_a_slot_that_is_taken_by_a_stranger_is_left_to_it": "a slot is a new UUID, which nobody else can take",
        "test_what_was_attached_by_hand_at_the_very_slot_of_the_plan_is_foreign_and_stays": SECRET_SLOT,
        "test_a_request_that_came_too_late_proves_nothing": SECRET_SLOT,
        "test_a_read_only_attachment_is_read_only_or_says_that_it_is_not": "a copy is a file: the core never writes it",
        "test_an_attach_that_takes_its_time_is_waited_for": NO_CLOUD,
        "test_an_attach_that_hangs_is_an_error_within_its_bound": NO_CLOUD,
        "test_an_attach_that_describe_contradicts_is_an_error": NO_CLOUD,
        "test_a_stale_description_gives_no_false_success": NO_CLOUD,
        "test_a_detach_that_takes_its_time_is_waited_for": NO_CLOUD,
        "test_a_detach_that_hangs_is_an_error_within_its_bound": NO_CLOUD,
        "test_a_detach_that_describe_contradicts_is_an_error": NO_CLOUD,
        "test_a_detach_after_an_attach_that_timed_out_leaves_nothing": NO_CLOUD,
        "test_an_attach_after_a_detach_that_timed_out_is_not_undone_by_it": NO_CLOUD,
        "test_detaching_from_a_machine_that_is_gone_succeeds": "the copies go with their machine",
        "test_a_link_that_is_wrong_misleads_nobody": NO_LINKS,
        "test_a_device_that_does_not_say_who_it_is_is_not_used": NO_IDENTITY,
        "test_a_device_that_says_it_is_another_is_not_used": NO_IDENTITY,
        "test_a_device_that_appears_late_is_waited_for": NO_DELAY,
        "test_a_device_that_does_not_appear_is_not_ready": NO_DELAY,
    }

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.archive = directory / "archive"
        self.workspaces = {"here": directory / "workspace", "elsewhere": directory / "workspace of another machine"}
        self._calls = FileCalls(self.workspaces["here"])
        self._numbers = count(1)
        self._disks: dict[str, Disk] = {}

    def __enter__(self) -> Self:
        for path in (self.archive, *self.workspaces.values()):
            path.mkdir()
        self._calls.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.stop()

    @property
    def calls(self) -> CallLog:
        return self._calls

    def table(self) -> dict[str, Any]:
        workspace = str(self.workspaces["here"])
        return {"type": "archive", "archive": str(self.archive), "workspace": workspace, "most_copies": MOST_COPIES}

    # Disks

    def make_disk(self, name: str = "", *, location: str = "", is_shared: bool = False) -> str:
        native = name or f"evidence-{next(self._numbers)}.raw"
        (self.archive / native).write_bytes(secrets.token_bytes(8192))
        self._disks[native] = self.make_provider().describe(DiskId("disks", native))
        return native

    def content(self, disk: str) -> bytes:
        return (self.archive / disk).read_bytes()[:4096]

    def missing_disk(self) -> str:
        return "nobody-has-this.raw"

    def other_locations(self) -> Sequence[str]:
        return ()

    def spellings(self, disk: str) -> Sequence[str]:
        (self.archive / f"link to {disk}").symlink_to(disk)
        return (f"link to {disk}",)

    def delete_disk(self, disk: str) -> None:
        (self.archive / disk).unlink()

    def replace_disk(self, disk: str) -> None:
        self.delete_disk(disk)
        self.make_disk(disk)

    def make_pages_small(self) -> None:
        """The provider's pages are what they are, so there are more disks than fit on one."""
        for number in range(PAGE_SIZE):
            (self.archive / f"filler-{number}").touch()

    # Copies that somebody makes by hand

    def attach_by_hand(self, disk: str) -> None:
        self._copy(disk, self.workspaces["here"])

    def attach_elsewhere(self, disk: str) -> str:
        self._copy(disk, self.workspaces["elsewhere"])
        return "elsewhere"

    def holders(self, disk: str) -> Sequence[str]:
        wanted = self._copy_name(disk, "")
        return [
            machine
            for machine, workspace in self.workspaces.items()
            if any(path.name.removeprefix(".").startswith(wanted) for path in workspace.iterdir())
        ]

    def fill_slots(self) -> None:
        for number in range(MOST_COPIES):
            (self.workspaces["here"] / f"filler-{number}").touch()

    def free_slot(self) -> None:
        (self.workspaces["here"] / "filler-0").unlink()

    def _copy(self, disk: str, workspace: Path) -> None:
        (workspace / self._copy_name(disk, BY_HAND)).write_bytes((self.archive / disk).read_bytes())

    def _copy_name(self, disk: str, slot: str) -> str:
        return copy_name(self._disks[disk], slot)

    # Trouble

    def inject(self, trouble: Trouble) -> None:
        assert trouble is Trouble.READS_FAIL, "all other troubles are declared not to apply"
        for path in (self.archive, self.workspaces["here"]):
            path.rename(path.with_name(f"{path.name} is not mounted"))

    def recover(self) -> None:
        for path in (self.archive, self.workspaces["here"]):
            path.with_name(f"{path.name} is not mounted").rename(path)
