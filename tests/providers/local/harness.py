"""The world in which the local provider is certified: a directory of images, or loop devices of this machine."""

import os
import secrets
import subprocess
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from cloudmanager.cli.block_devices import loop_devices
from cloudmanager.core.errors import CloudManagerError, DiskNotFound, InvalidDiskId
from cloudmanager.providers import local
from cloudmanager.providers.local.listing import PAGE_SIZE
from cloudmanager.testing.cloud.calls import Call, CallLog
from cloudmanager.testing.conformance import ErrorCase, Harness, Trouble
from tests.loop_devices import attached, detach

ALWAYS_HERE = "a local disk is here already: nothing is ever attached or detached"
NO_CLOUD = "there is no cloud that could hang, be late, lie or be out of date"
NO_METADATA = "there is no metadata server: the machine says itself who it is"


class UntouchedFiles(CallLog):
    """Every file of a directory that is not what it was when the log was cleared counts as a change."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._before = self._state()

    def clear(self) -> None:
        super().clear()
        self._before = self._state()

    def mutations(self) -> list[Call]:
        changed = set(self._before.items()) ^ set(self._state().items())
        return [Call("changed", name, mutates=True, status=0) for name in sorted({name for name, _ in changed})]

    def _state(self) -> dict[str, tuple[int, ...]]:
        found = {path.name: path.lstat() for path in self._directory.iterdir()}
        return {name: (each.st_ino, each.st_size, each.st_mode, each.st_mtime_ns) for name, each in found.items()}


def _attach_to(device: str, image: Path, seconds: float = 60) -> None:
    """A number that is free is anybody's: whoever took it meanwhile is waited for."""
    deadline = time.monotonic() + seconds
    while subprocess.run(["losetup", device, image], capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, f"{device} is not free again"
        time.sleep(0.02)  # nothing tells


def _becomes(kind: str, error: type[CloudManagerError], change: Any) -> ErrorCase:
    return ErrorCase(kind, "describe", lambda harness, disk: change(harness.images / disk), error, retriable=False)


def _replace_by_directory(image: Path) -> None:
    image.unlink()
    image.mkdir()


def _replace_by_link_out(image: Path) -> None:
    image.unlink()
    image.symlink_to("/etc/passwd")


class ImageHarness(Harness):
    """Raw images in a directory."""

    plugin = local
    node_name = "here"
    malformed_ids: ClassVar[Sequence[str]] = ("../case.raw", "a/../case.raw", "/", ".", "/etc/passwd")
    error_cases: ClassVar[Sequence[ErrorCase]] = (
        _becomes("an image that was deleted", DiskNotFound, Path.unlink),
        _becomes("an image that became a directory", InvalidDiskId, _replace_by_directory),
        _becomes("an image that became a link out of the directory", InvalidDiskId, _replace_by_link_out),
    )
    does_not_apply: ClassVar[dict[str, str]] = {
        "test_a_metadata_server_that_fails_ends_the_start_with_what_was_tried": NO_METADATA,
        "test_attached_in_another_mode_is_a_conflict": ALWAYS_HERE,
        "test_attached_elsewhere_names_the_holder_and_detaches_nothing": ALWAYS_HERE,
        "test_at_the_limit_an_attach_fails_and_a_freed_slot_suffices": ALWAYS_HERE,
        "test_an_attach_that_takes_its_time_is_waited_for": NO_CLOUD,
        "test_an_attach_that_hangs_is_an_error_within_its_bound": NO_CLOUD,
        "test_an_attach_that_describe_contradicts_is_an_error": NO_CLOUD,
        "test_a_stale_description_gives_no_false_success": NO_CLOUD,
        "test_one_disk_attached_by_several_threads_is_attached_once": ALWAYS_HERE,
        "test_several_disks_attached_at_once_do_not_meet": "a local disk has no slot that another could take",
        "test_a_slot_that_is_taken_by_a_stranger_is_left_to_it": "a local disk has no slot that another could take",
        "test_a_read_only_attachment_is_read_only_or_says_that_it_is_not": ALWAYS_HERE
        + "; the core sets what it exports read-only",
        "test_what_was_attached_by_hand_after_the_plan_is_foreign_and_stays": ALWAYS_HERE,
        "test_what_was_attached_by_hand_at_the_very_slot_of_the_plan_is_foreign_and_stays": ALWAYS_HERE,
        "test_a_request_that_came_too_late_proves_nothing": ALWAYS_HERE,
        "test_what_is_attached_before_the_plan_is_noted_as_present": ALWAYS_HERE + ", and every plan says so",
        "test_detaching_again_succeeds": ALWAYS_HERE,
        "test_detaching_from_a_machine_that_is_gone_succeeds": "the machine is the one that this runs on",
        "test_a_detach_that_takes_its_time_is_waited_for": NO_CLOUD,
        "test_a_detach_that_hangs_is_an_error_within_its_bound": NO_CLOUD,
        "test_a_detach_that_describe_contradicts_is_an_error": NO_CLOUD,
        "test_a_detach_after_an_attach_that_timed_out_leaves_nothing": NO_CLOUD,
        "test_an_attach_after_a_detach_that_timed_out_is_not_undone_by_it": NO_CLOUD,
        "test_a_disk_that_was_replaced_gets_no_plan": ALWAYS_HERE,
        "test_a_disk_that_was_replaced_after_the_plan_is_not_attached": ALWAYS_HERE,
        "test_a_disk_that_is_replaced_while_it_is_attached_is_released": ALWAYS_HERE,
        "test_another_disk_with_the_name_is_not_detached": ALWAYS_HERE,
        "test_a_link_that_is_wrong_misleads_nobody": "an image is opened by its path, and checked by its inode",
        "test_a_device_that_does_not_say_who_it_is_is_not_used": "an image is known by its inode, which it always has",
        "test_a_device_that_says_it_is_another_is_not_used": "see test_another_disk_under_the_name_is_not_used",
        "test_a_device_that_appears_late_is_waited_for": ALWAYS_HERE,
        "test_a_device_that_does_not_appear_is_not_ready": ALWAYS_HERE,
        "test_a_disk_that_is_not_attached_is_said_to_be_so": ALWAYS_HERE,
        "test_a_cloud_that_cannot_be_asked_is_no_proof_of_absence": "the provider never says that a disk is absent",
        "test_a_disk_that_was_detached_by_hand_is_not_said_to_be_there": ALWAYS_HERE,
        "test_looking_at_all_disks_says_so_when_the_cloud_cannot_be_asked": "there is no cloud to be asked",
        "test_no_secret_is_logged_or_shown": "the provider has no credentials",
        "test_killed_after_any_call_of_an_attach_the_next_process_converges": "an attach makes no call",
        "test_killed_after_any_call_of_an_attach_a_detach_leaves_nothing": "an attach makes no call",
        "test_killed_after_any_call_of_a_detach_the_next_process_converges": "a detach makes no call",
    }

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.images = directory / "images"
        self.images.mkdir()
        self._calls = UntouchedFiles(self.images)
        self._numbers = count(1)

    def __exit__(self, *_: object) -> None:
        """The directory is the test's own."""

    @property
    def calls(self) -> CallLog:
        return self._calls

    def table(self) -> dict[str, Any]:
        return {"type": "local", "images": [str(self.images)]}

    def make_disk(self, name: str = "", *, location: str = "", is_shared: bool = False) -> str:  # noqa: ARG002 - there is one location
        native = f"{name or f'evidence-{next(self._numbers)}'}.raw"
        with (self.images / native).open("xb") as file:
            file.write(secrets.token_bytes(4096))
            os.truncate(file.fileno(), 1 << 20)
        return native

    def content(self, disk: str) -> bytes:
        return (self.images / disk).read_bytes()[:4096]

    def missing_disk(self) -> str:
        return "nobody-has-this.raw"

    def other_locations(self) -> Sequence[str]:
        return ()

    def spellings(self, disk: str) -> Sequence[str]:
        (self.images / "symbolic").symlink_to(disk)
        (self.images / "hard").hardlink_to(self.images / disk)
        return (f"./{disk}", str(self.images / disk), "symbolic", "hard")

    def delete_disk(self, disk: str) -> None:
        (self.images / disk).unlink()

    def replace_disk(self, disk: str) -> None:
        """With the inode of the one that it replaces, if the file system has it so."""
        self.delete_disk(disk)
        self.make_disk(disk.removesuffix(".raw"))

    def attach_by_hand(self, disk: str, *, slot: str = "") -> None:
        """It is here already."""

    def make_pages_small(self) -> None:
        """The provider's pages are what they are, so there are more images than fit on one."""
        for number in range(PAGE_SIZE):
            (self.images / f"filler-{number}.raw").write_bytes(bytes(512))

    def inject(self, trouble: Trouble) -> None:
        raise NotImplementedError(f"{trouble}: {NO_CLOUD}")


class LoopDeviceHarness(ImageHarness):
    """Block devices of this machine: loop devices, made for the check."""

    malformed_ids = ()
    error_cases = (
        ErrorCase(
            "a loop device that reads from nothing any more",
            "describe",
            lambda harness, disk: harness.delete_disk(disk),
            DiskNotFound,
            retriable=False,
        ),
    )
    does_not_apply: ClassVar[dict[str, str]] = {
        **ImageHarness.does_not_apply,
        "test_listing_finds_every_location_and_page": "the listing is of all the machine's disks: see test_find.py",
        "test_listing_restricts_by_name_and_location": "a loop device's name is the kernel's: see test_find.py",
        "test_a_listed_disk_is_described_alike": "the listing is of all the machine's disks: see test_find.py",
    }

    def __exit__(self, *_: object) -> None:
        for node in self._nodes():
            detach(Path(node))

    def table(self) -> dict[str, Any]:
        return {"type": "local", "devices": True}

    def make_disk(self, name: str = "", *, location: str = "", is_shared: bool = False) -> str:  # noqa: ARG002 - as above
        image = self.images / super().make_disk(name)
        return str(attached(image))

    def content(self, disk: str) -> bytes:
        return self._image(disk).read_bytes()[:4096]

    def missing_disk(self) -> str:
        return "/dev/loop999"

    def spellings(self, disk: str) -> Sequence[str]:
        return (disk.replace("/dev/", "/dev/./"),)

    def delete_disk(self, disk: str) -> None:
        detach(Path(disk))

    def replace_disk(self, disk: str) -> None:
        """Another file behind the same loop device."""
        image = self._image(disk)
        detach(Path(disk))
        image.unlink()
        made = self.images / ImageHarness.make_disk(self, image.name.removesuffix(".raw"))
        _attach_to(disk, made)

    def _image(self, disk: str) -> Path:
        return Path(Path("/sys/block", Path(disk).name, "loop/backing_file").read_text().strip())

    def _nodes(self) -> list[str]:
        return [f"/dev/{name}" for name in loop_devices(self.images)]
