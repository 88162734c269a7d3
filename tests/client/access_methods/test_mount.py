"""File systems that were in use when the disk was taken: mounted as they were found, and not a byte changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cloudmanager.client import access_methods
from cloudmanager.client.access_methods import AccessMethod
from cloudmanager.client.access_methods.errors import AccessFailed, NotMountable
from cloudmanager.core.model import Access
from tests.client.access_methods import disks
from tests.client.access_methods.disks import FILE_SYSTEMS, GREETING
from tests.client.access_methods.serving import Serving
from tests.client.test_sector_size import partitioned

WITH_A_JOURNAL = ["ext4", "xfs", "btrfs"]


@pytest.fixture
def in_use(evidence: Path, tmp_path: Path, kind: str) -> Path:
    """One of the file systems of the evidence, without the others: a disk for a server that accepts writes."""
    copy = tmp_path / "disk.raw"
    disks.run("cp", "--sparse=always", evidence.parent / f"{kind}.copy", copy)
    return copy


@pytest.mark.parametrize("kind", WITH_A_JOURNAL)
def test_a_plain_mount_would_change_the_evidence(in_use: Path) -> None:
    """So the test below can fail."""
    before = disks.digest(in_use)
    with disks.mounted(in_use):
        pass
    assert disks.digest(in_use) != before


@pytest.mark.parametrize("kind", [*WITH_A_JOURNAL, "ntfs"])
def test_files_are_read_and_no_byte_changes_even_where_the_server_accepts_writes(
    serving: Serving, in_use: Path
) -> None:
    before = disks.digest(in_use)
    with access_methods.mount(serving.address(in_use, Access.READ_WRITE)) as mounted:
        assert (mounted.path / "greeting").read_text() == GREETING
        with pytest.raises(OSError, match="Read-only file system"):
            (mounted.path / "new").touch()
    assert disks.digest(in_use) == before
    assert not mounted.path.exists()


@pytest.mark.parametrize("number", [number for number, kind in FILE_SYSTEMS.items() if kind != "vfat"])
def test_a_partition_is_mounted_by_its_number(serving: Serving, evidence: Path, number: str) -> None:
    with access_methods.mount(serving.address(evidence), part=number) as mounted:
        assert (mounted.path / "greeting").read_text() == GREETING
        assert mounted.part.content is not None
        assert mounted.part.content.type == FILE_SYSTEMS[number]


def test_it_is_mounted_where_the_user_wants_it(serving: Serving, evidence: Path, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    where.mkdir()
    with access_methods.mount(serving.address(evidence), where, part="1") as mounted:
        assert mounted.path == where
        assert (where / "greeting").read_text() == GREETING
    assert list(where.iterdir()) == []


def test_what_somebody_else_has_mounted_there_is_left_alone(serving: Serving, evidence: Path, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    where.mkdir()
    try:
        with access_methods.mount(serving.address(evidence), where, part="1"):
            disks.run("umount", where)
            disks.run("mount", "-t", "tmpfs", "theirs", where)
        assert os.path.ismount(where)
    finally:
        disks.run("umount", where)


def test_a_directory_that_is_not_there_is_an_error_and_leaves_nothing(
    serving: Serving, evidence: Path, tmp_path: Path
) -> None:
    with pytest.raises(AccessFailed, match="is not a directory"):
        with access_methods.mount(serving.address(evidence), tmp_path / "missing", part="1"):
            pass


def test_several_file_systems_must_be_named_and_are_listed(serving: Serving, evidence: Path) -> None:
    with pytest.raises(NotMountable, match=r"1 \(ext4.*2 \(xfs"), access_methods.mount(serving.address(evidence)):
        pass


def test_a_part_that_the_disk_has_not_is_refused(serving: Serving, evidence: Path) -> None:
    with pytest.raises(NotMountable, match="no part '9'"), access_methods.mount(serving.address(evidence), part="9"):
        pass


def test_the_only_file_system_needs_no_name(serving: Serving, group: Path) -> None:
    """It is in a logical volume, on a disk whose journal is dirty; there is no device mapper in it."""
    with access_methods.mount(serving.address(group)) as mounted:
        assert mounted.part.name == "evidence/whole"
        assert (mounted.path / "greeting").read_text() == GREETING


def test_a_logical_volume_in_pieces_is_refused_with_what_to_do(serving: Serving, group: Path) -> None:
    with (
        pytest.raises(NotMountable, match="vgchange"),
        access_methods.mount(serving.address(group), part="evidence/split"),
    ):
        pass


def test_what_is_no_file_system_is_refused(serving: Serving, group: Path) -> None:
    with pytest.raises(NotMountable, match="no file system"), access_methods.mount(serving.address(group), part="2"):
        pass


def test_a_damaged_file_system_fails_in_the_words_of_mount(serving: Serving, evidence: Path, tmp_path: Path) -> None:
    ext4 = tmp_path / "ext4"
    shutil.copyfile(evidence.parent / "ext4.copy", ext4)
    with ext4.open("r+b") as file:
        file.seek(2048)
        file.write(bytes(1024 * 1024))  # the descriptors of its groups
    with pytest.raises(AccessFailed, match="mount: "), access_methods.mount(serving.address(ext4)):
        pass


def test_a_reader_that_stays_does_not_keep_it(serving: Serving, evidence: Path) -> None:
    with access_methods.mount(serving.address(evidence), part="1") as mounted:
        reader = os.open(mounted.path / "greeting", os.O_RDONLY)
    try:
        assert not mounted.path.exists()
    finally:
        os.close(reader)


def test_the_same_file_system_is_mounted_twice(serving: Serving, evidence: Path) -> None:
    """XFS refuses a second one of the same UUID, unless it is told that this is meant."""
    address = serving.address(evidence)
    with access_methods.mount(address, part="2") as first, access_methods.mount(address, part="2") as second:
        assert (first.path / "greeting").read_text() == (second.path / "greeting").read_text() == GREETING


def test_a_stub_cannot_be_mounted(serving: Serving, evidence: Path) -> None:
    with pytest.raises(NotMountable, match="the device or the file"):
        with access_methods.mount(serving.address(evidence), part="1", method=AccessMethod.STUB):
            pass


def test_a_partition_of_a_disk_with_large_sectors_is_mounted(serving: Serving, tmp_path: Path) -> None:
    """What `attach` found there was unknown content: the table counts in 4096 bytes."""
    disk = partitioned(tmp_path / "large.raw", 4096, "gpt", ("mke2fs", "-q", "-d", str(_with_greeting(tmp_path))))
    with access_methods.mount(serving.address(disk), method=AccessMethod.FILE) as mounted:
        assert mounted.layout.logical_sector_bytes == 4096
        assert (mounted.path / "greeting").read_text() == GREETING


def _with_greeting(directory: Path) -> Path:
    content = directory / "content"
    content.mkdir()
    (content / "greeting").write_text(GREETING)
    return content
