"""What can be done with an image, and who else uses it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloudmanager.core.model import Access
from cloudmanager.providers.local import LocalProvider
from cloudmanager.providers.local.roots import Roots
from cloudmanager.providers.local.settings import LocalSettings
from tests.images.udif import udif
from tests.providers.local.conftest import MiB, disk_id, qemu_img, run

READ_ONLY = frozenset({Access.READ_ONLY, Access.SCRATCH})


def test_an_image_of_our_own_can_be_used_in_any_way(provider: LocalProvider, raw: Path) -> None:
    disk = provider.describe(disk_id(raw.name))
    assert (disk.access, disk.held_by, disk.description) == (frozenset(Access), (), "")
    assert disk.actual_size_bytes == raw.stat().st_blocks * 512
    assert provider.locate(disk).is_stable


def test_formats_that_qemu_only_reads(provider: LocalProvider, raw: Path, directory: Path) -> None:
    (directory / "mac.dmg").write_bytes(udif(bytes(65536)))
    qemu_img("convert", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, directory / "stream.vmdk")
    for name in ("mac.dmg", "stream.vmdk"):
        disk = provider.describe(disk_id(name))
        assert disk.access == READ_ONLY
        assert "only reads" in disk.description


def test_a_file_that_nobody_may_write(provider: LocalProvider, raw: Path) -> None:
    raw.chmod(0o444)
    disk = provider.describe(disk_id(raw.name))
    assert disk.access == READ_ONLY
    assert "chmod" in disk.description


def test_an_immutable_file(provider: LocalProvider, raw: Path, undo: ExitStack) -> None:
    run("chattr", "+i", raw)
    undo.callback(run, "chattr", "-i", raw)
    assert provider.describe(disk_id(raw.name)).access == READ_ONLY


def test_a_file_system_mounted_read_only(raw: Path, directory: Path, mount: Callable[..., Path]) -> None:
    target = mount(directory, "--bind", "-o", "ro")
    disk = LocalProvider("local", LocalSettings(images=(target,))).describe(disk_id(raw.name))
    assert disk.access == READ_ONLY
    assert "mounted" in disk.description


def test_an_image_behind_a_loop_device(provider: LocalProvider, raw: Path, loop: Callable[..., str]) -> None:
    name = loop(raw)
    disk = provider.describe(disk_id(raw.name))
    assert disk.access == READ_ONLY
    assert disk.held_by == (f"loop device {name}",)
    assert not provider.locate(disk).is_stable


def test_an_image_behind_a_read_only_loop_device_does_not_change(
    provider: LocalProvider, raw: Path, loop: Callable[..., str]
) -> None:
    loop(raw, "-r")
    disk = provider.describe(disk_id(raw.name))
    assert disk.access == READ_ONLY
    assert provider.locate(disk).is_stable


def test_a_loop_device_holds_the_file_under_each_of_its_names(
    provider: LocalProvider, raw: Path, directory: Path, loop: Callable[..., str]
) -> None:
    (directory / "other.raw").hardlink_to(raw)
    loop(raw)
    raw.unlink()
    assert provider.describe(disk_id("other.raw")).held_by


def test_a_mounted_image(provider: LocalProvider, directory: Path, mount: Callable[..., Path]) -> None:
    image = directory / "fs.img"
    run("truncate", "-s", "4M", image)
    run("mkfs.ext4", "-q", image)
    mount(image, "-o", "loop")
    disk = provider.describe(disk_id("fs.img"))
    assert disk.access == READ_ONLY
    assert disk.held_by


def test_a_swap_file(directory: Path, raw: Path, tmp_path: Path) -> None:
    """As the kernel lists it; to swap here would change this machine."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "swaps").write_text(f"Filename\tType\tSize\tUsed\tPriority\n{raw} file 1020 0 -2\n")
    provider = LocalProvider("local", LocalSettings(images=(directory,)), Roots(proc=proc))
    disk = provider.describe(disk_id(raw.name))
    assert disk.held_by == ("swap",)
    assert Access.READ_WRITE not in disk.access


def test_an_image_that_is_mounted_directly(directory: Path, raw: Path, tmp_path: Path) -> None:
    """EROFS can be (Linux 6.12): the file is the mount's source. As the kernel writes it, with an escaped space."""
    image = directory / "two words.img"
    image.write_bytes(bytes(MiB))
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    source = str(image).replace(" ", r"\040")
    (proc / "self/mountinfo").write_text(rf"30 1 0:40 / /mnt/a\040b ro,relatime shared:1 - erofs {source} ro" + "\n")
    provider = LocalProvider("local", LocalSettings(images=(directory,)), Roots(proc=proc))
    assert provider.describe(disk_id(image.name)).held_by == ("mounted at /mnt/a b",)
    assert provider.describe(disk_id(raw.name)).held_by == ()


@pytest.mark.parametrize("format_name", ["qcow2", "vmdk", "vdi", "vpc", "vhdx", "parallels"])
def test_formats_that_qemu_writes_can_be_written(
    format_name: str, provider: LocalProvider, raw: Path, directory: Path
) -> None:
    qemu_img("convert", "-O", format_name, raw, directory / "image")
    disk = provider.describe(disk_id("image"))
    assert Access.READ_WRITE in disk.access
    device = provider.locate(disk)
    writing = ["qemu-io", "-f", device.format, "-c", "write 0 64k", device.path]
    assert "wrote 65536/65536" in subprocess.run(writing, check=True, capture_output=True, text=True).stdout
