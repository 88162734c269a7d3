"""One file is one disk, whatever it is called; another file is another disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudmanager.core.errors import DeviceMismatch, DiskNotFound
from cloudmanager.providers.local import LocalProvider
from cloudmanager.providers.local.roots import Roots
from cloudmanager.providers.local.settings import LocalSettings
from tests.providers.local.conftest import MiB, disk_id, qemu_img


def canonical(provider: LocalProvider, name: str) -> str:
    return provider.describe(disk_id(name)).canonical_id


def test_hard_links_are_one_disk(provider: LocalProvider, raw: Path, directory: Path) -> None:
    (directory / "other.raw").hardlink_to(raw)
    assert canonical(provider, "other.raw") == canonical(provider, raw.name)


def test_a_copy_is_another_disk(provider: LocalProvider, raw: Path, directory: Path) -> None:
    (directory / "copy.raw").write_bytes(raw.read_bytes())
    assert canonical(provider, "copy.raw") != canonical(provider, raw.name)


def test_moving_and_writing_change_nothing(provider: LocalProvider, raw: Path, directory: Path) -> None:
    before = canonical(provider, raw.name)
    raw.rename(directory / "moved.raw")
    with (directory / "moved.raw").open("r+b") as file:
        file.write(b"changed")
    assert canonical(provider, "moved.raw") == before


def test_two_providers_agree(directory: Path, raw: Path) -> None:
    settings = LocalSettings(images=(directory.parent,))
    other = LocalProvider("archive", settings)
    mine = LocalProvider("local", LocalSettings(images=(directory,)))
    assert other.describe(disk_id(f"images/{raw.name}")).canonical_id == canonical(mine, raw.name)


def test_another_machine_has_other_disks(directory: Path, raw: Path, tmp_path: Path) -> None:
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    settings = LocalSettings(images=(directory,))
    elsewhere = LocalProvider("local", settings, Roots(machine_id=tmp_path / "machine-id"))
    assert canonical(elsewhere, raw.name) != canonical(LocalProvider("local", settings), raw.name)


def test_a_machine_without_an_id_goes_by_its_name(tmp_path: Path) -> None:
    nameless = Roots(sys=tmp_path, machine_id=tmp_path / "missing")
    assert nameless.machine() == os.uname().nodename


def test_a_reused_inode_is_another_disk(provider: LocalProvider, directory: Path) -> None:
    """ext4 gives a number out again at once, with another generation."""
    path = directory / "a.raw"
    seen: dict[int, str] = {}
    for _attempt in range(50):
        path.write_bytes(b"x" * 512)
        inode, name = path.stat().st_ino, canonical(provider, "a.raw")
        if inode in seen:
            assert name != seen[inode]
            return
        seen[inode] = name
        path.unlink()
    pytest.skip("this file system does not reuse inode numbers soon")


def test_a_replaced_image_is_a_mismatch(provider: LocalProvider, raw: Path, directory: Path) -> None:
    disk = provider.describe(disk_id(raw.name))
    (directory / "new").write_bytes(b"y" * MiB)
    (directory / "new").replace(raw)
    with pytest.raises(DeviceMismatch, match="Another file"):
        provider.locate(disk)


def test_a_deleted_image_is_not_found(provider: LocalProvider, raw: Path) -> None:
    disk = provider.describe(disk_id(raw.name))
    raw.unlink()
    with pytest.raises(DiskNotFound):
        provider.locate(disk)


def test_a_raw_disk_stays_raw_when_its_client_writes_an_image_into_it(provider: LocalProvider, raw: Path) -> None:
    disk = provider.describe(disk_id(raw.name))
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", raw.with_name("evil"), "1M")
    with raw.open("r+b") as file:
        file.write(raw.with_name("evil").read_bytes()[:4096])
    device = provider.locate(disk)
    assert (device.format, device.size_bytes, device.backing) == ("raw", MiB, None)


def test_a_grown_image_is_the_same_disk_with_its_new_size(provider: LocalProvider, raw: Path) -> None:
    disk = provider.describe(disk_id(raw.name))
    os.truncate(raw, 2 * MiB)
    assert provider.locate(disk).size_bytes == 2 * MiB
