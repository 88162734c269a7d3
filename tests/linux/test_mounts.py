"""The mount table is read once and rightly, whatever is in the names."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.linux import mounts


@pytest.fixture
def mount_point(tmp_path: Path) -> Iterator[Path]:
    """With everything in its name that the kernel escapes, and what Python takes for the end of a line."""
    path = tmp_path / "a b\tc\nd\\e#\u2028f\x85g \N{SNOWMAN}"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "a source", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_mount_is_found_whatever_its_name_has(mount_point: Path) -> None:
    found = mounts.mounted_at(mount_point)

    assert found is not None
    assert (found.type, found.source, found.root) == ("tmpfs", "a source", "/")
    assert found.device == mount_point.stat().st_dev
    assert not found.is_writable


def test_the_uppermost_mount_counts(mount_point: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "above", str(mount_point)], check=True)
    try:
        found = mounts.mounted_at(mount_point)
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)

    assert found is not None
    assert found.source == "above"
    assert found.is_writable


def test_nothing_is_mounted_at_an_ordinary_directory(tmp_path: Path) -> None:
    assert mounts.mounted_at(tmp_path) is None


def test_optional_fields_and_sources_without_a_name_are_understood() -> None:
    line = r"36 35 98:0 /part /mnt\0402 rw,noatime shared:1 master:2 - ext3  rw,errors=continue"

    (found,) = mounts.parse(f"{line}\n")

    assert found == mounts.Mount(os.makedev(98, 0), "/part", "/mnt 2", "ext3", "", ("rw", "errors=continue"))
