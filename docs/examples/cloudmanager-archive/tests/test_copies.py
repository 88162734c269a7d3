"""What the suite does not ask, because only this provider has it."""

from pathlib import Path

import pytest
from cloudmanager import Access, Device, DiskId, NotAttached, errors

from harness import ArchiveHarness


@pytest.fixture
def harness(tmp_path: Path):
    with ArchiveHarness(tmp_path) as harness:
        yield harness


@pytest.fixture
def provider(harness):
    return harness.make_provider("cold")


def copy(provider, native: str) -> Path:
    disk = provider.describe(DiskId("cold", native))
    provider.attach(provider.plan_attach(disk, Access.READ_ONLY))
    device = provider.locate(disk)
    assert isinstance(device, Device)
    return Path(device.path)


def test_a_copy_of_another_size_is_not_used(harness, provider):
    native = harness.make_disk()
    copy(provider, native).write_bytes(b"short")
    with pytest.raises(errors.DeviceMismatch):
        provider.locate(provider.describe(DiskId("cold", native)))


def test_half_a_copy_is_no_copy(harness, provider):
    native = harness.make_disk()
    complete = copy(provider, native)
    complete.rename(complete.with_name(f".{complete.name}"))
    assert isinstance(provider.locate(provider.describe(DiskId("cold", native))), NotAttached)


def test_a_link_that_leads_out_of_the_archive_is_refused(harness, provider):
    (harness.directory / "secret").write_text("not for you")
    (harness.archive / "innocent.raw").symlink_to(harness.directory / "secret")
    with pytest.raises(errors.InvalidDiskId):
        provider.describe(DiskId("cold", "innocent.raw"))


def test_the_doctor_is_told_how_much_room_there_is(harness, provider):
    harness.make_disk()
    (finding,) = provider.diagnose()
    assert finding.subject == "workspace"
