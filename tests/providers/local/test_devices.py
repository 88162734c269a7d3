"""Block devices, on real loop devices, partitions and mounts."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloudmanager.core.errors import DeviceMismatch, DeviceNotReady, DiskNotFound, InvalidDiskId
from cloudmanager.core.model import Access, FileIdentity
from cloudmanager.providers.local import LocalProvider
from cloudmanager.providers.local.roots import Roots
from cloudmanager.providers.local.settings import LocalSettings
from tests.providers.local.conftest import MiB, disk_id, found, run

LOOP_CHANGE_FD = 0x4C06  # linux/loop.h
READ_ONLY = frozenset({Access.READ_ONLY, Access.SCRATCH})
WORKER = """
import os, sys
os.open(sys.argv[1], os.O_RDONLY | os.O_EXCL)
print("held", flush=True)
sys.stdin.read()
"""


def number(name: str) -> int:
    return Path(f"/dev/{name}").stat().st_rdev


def test_a_device_is_located_by_its_number(provider: LocalProvider, raw: Path, loop: Callable[..., str]) -> None:
    name = loop(raw)
    device = provider.locate(provider.describe(disk_id(f"/dev/{name}")))
    assert device.path == f"/dev/{name}"
    assert device.is_block
    assert device.identity == FileIdentity(number(name), 0)
    assert (device.format, device.size_bytes, device.is_stable) == ("raw", MiB, True)


def test_devices_are_listed_as_they_are_described(provider: LocalProvider, partitioned: str) -> None:
    names = [f"/dev/{partitioned}{part}" for part in ("", "p1", "p2")]
    listed = {native: disk for native, disk in found(provider).items() if native in names}
    assert list(listed) == names
    for native, disk in listed.items():
        assert disk == provider.describe(disk_id(native))


def test_a_partition_is_its_disk_to_claims_and_has_its_own_size(provider: LocalProvider, partitioned: str) -> None:
    disk, partition = (provider.describe(disk_id(f"/dev/{partitioned}{part}")) for part in ("", "p2"))
    assert partition.canonical_id == disk.canonical_id
    assert (disk.size_bytes, partition.size_bytes) == (16 * MiB, 4 * MiB)
    device = provider.locate(partition)
    assert (device.path, device.size_bytes) == (f"/dev/{partitioned}p2", 4 * MiB)
    assert device.identity.device == number(f"{partitioned}p2")
    assert partition.labels["partition_of"] == partitioned


def test_an_image_and_its_loop_device_are_one_disk(
    provider: LocalProvider, raw: Path, loop: Callable[..., str]
) -> None:
    name = loop(raw)
    canonical_id = provider.describe(disk_id(raw.name)).canonical_id
    assert provider.describe(disk_id(f"/dev/{name}")).canonical_id == canonical_id


def test_a_loop_device_of_a_partition_is_the_partitions_disk(
    provider: LocalProvider, partitioned: str, loop: Callable[..., str]
) -> None:
    name = loop(Path(f"/dev/{partitioned}p1"))
    assert (
        provider.describe(disk_id(f"/dev/{name}")).canonical_id
        == provider.describe(disk_id(f"/dev/{partitioned}")).canonical_id
    )
    assert provider.describe(disk_id(f"/dev/{partitioned}p1")).held_by


def test_what_holds_the_whole_disk_holds_its_partitions(
    provider: LocalProvider, partitioned: str, loop: Callable[..., str]
) -> None:
    name = loop(Path(f"/dev/{partitioned}"))
    assert provider.describe(disk_id(f"/dev/{partitioned}p2")).held_by == (f"loop device {name}",)


def test_a_loop_device_of_a_deleted_image_has_an_id_of_its_own(
    provider: LocalProvider, raw: Path, loop: Callable[..., str]
) -> None:
    name = loop(raw)
    before = provider.describe(disk_id(f"/dev/{name}")).canonical_id
    raw.unlink()
    raw.write_bytes(b"x" * MiB)
    disk = provider.describe(disk_id(f"/dev/{name}"))
    assert disk.canonical_id not in (before, provider.describe(disk_id(raw.name)).canonical_id)


def test_two_loop_devices_are_two_disks(
    provider: LocalProvider, raw: Path, directory: Path, loop: Callable[..., str]
) -> None:
    (directory / "copy.raw").write_bytes(raw.read_bytes())
    first, second = loop(raw), loop(directory / "copy.raw")
    ids = {provider.describe(disk_id(f"/dev/{name}")).canonical_id for name in (first, second)}
    assert len(ids) == 2


def test_another_image_behind_the_same_loop_device_is_a_mismatch(
    provider: LocalProvider, raw: Path, directory: Path, loop: Callable[..., str]
) -> None:
    name = loop(raw, "--read-only")
    disk = provider.describe(disk_id(f"/dev/{name}"))
    (directory / "other.raw").write_bytes(raw.read_bytes())
    with Path(f"/dev/{name}").open("rb") as device, (directory / "other.raw").open("rb") as other:
        fcntl.ioctl(device, LOOP_CHANGE_FD, other.fileno())  # in one step: nobody else can take the number between
    with pytest.raises(DeviceMismatch, match="Another disk"):
        provider.locate(disk)


def test_a_mounted_partition_makes_itself_and_its_disk_read_only(
    provider: LocalProvider, partitioned: str, mount: Callable[..., Path]
) -> None:
    run("mkfs.ext4", "-q", f"/dev/{partitioned}p1")
    target = mount(f"/dev/{partitioned}p1")
    for part in ("p1", ""):
        disk = provider.describe(disk_id(f"/dev/{partitioned}{part}"))
        assert disk.access == READ_ONLY
        assert disk.held_by == (f"mounted at {target}",)
        assert not provider.locate(disk).is_stable


def test_the_other_partition_of_a_disk_in_use_is_free(
    provider: LocalProvider, partitioned: str, mount: Callable[..., Path]
) -> None:
    run("mkfs.ext4", "-q", f"/dev/{partitioned}p1")
    mount(f"/dev/{partitioned}p1")
    assert provider.describe(disk_id(f"/dev/{partitioned}p2")).access == frozenset(Access)


def test_nothing_about_a_device_in_use_is_altered(
    provider: LocalProvider, partitioned: str, mount: Callable[..., Path]
) -> None:
    run("mkfs.ext4", "-q", f"/dev/{partitioned}p1")
    target = mount(f"/dev/{partitioned}p1")
    state = Path(f"/sys/block/{partitioned}")
    before = [(state / name).read_text() for name in ("ro", "queue/read_ahead_kb", "loop/dio")]
    provider.locate(provider.describe(disk_id(f"/dev/{partitioned}p1")))
    assert [(state / name).read_text() for name in ("ro", "queue/read_ahead_kb", "loop/dio")] == before
    (target / "still writable").write_text("yes")


def test_a_device_mounted_read_only_does_not_change(
    provider: LocalProvider, raw: Path, loop: Callable[..., str], mount: Callable[..., Path]
) -> None:
    run("mkfs.ext4", "-q", "-F", raw)
    name = loop(raw, "-r")
    mount(f"/dev/{name}", "-o", "ro,noload")
    disk = provider.describe(disk_id(f"/dev/{name}"))
    assert disk.access == READ_ONLY
    assert disk.held_by
    assert provider.locate(disk).is_stable


def test_btrfs_tells_its_device_only_by_the_mounts_source(directory: Path, raw: Path, tmp_path: Path) -> None:
    """Its mounts have a device number of their own. As the kernel writes it."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self/mountinfo").write_text("30 1 0:40 / /data rw,relatime - btrfs /dev/vda rw,space_cache=v2\n")
    settings = LocalSettings(images=(directory,), devices=True)
    disk = LocalProvider("local", settings, Roots(proc=proc)).describe(disk_id("/dev/vda"))
    assert disk.held_by == ("mounted at /data",)


def test_a_read_only_device(provider: LocalProvider, raw: Path, loop: Callable[..., str]) -> None:
    disk = provider.describe(disk_id(f"/dev/{loop(raw, '-r')}"))
    assert disk.access == READ_ONLY
    assert disk.held_by == ()
    assert "read-only" in disk.description


def test_swap(provider: LocalProvider, raw: Path, loop: Callable[..., str], undo: ExitStack) -> None:
    name = loop(raw)
    run("mkswap", f"/dev/{name}")
    run("swapon", f"/dev/{name}")
    undo.callback(run, "swapoff", f"/dev/{name}")
    disk = provider.describe(disk_id(f"/dev/{name}"))
    assert (disk.access, disk.held_by) == (READ_ONLY, ("swap",))


def test_a_program_that_has_it_exclusively(provider: LocalProvider, raw: Path, loop: Callable[..., str]) -> None:
    """A mount in another container shows in nothing else."""
    node = f"/dev/{loop(raw)}"
    command = [sys.executable, "-c", WORKER, node]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        disk = provider.describe(disk_id(node))
        worker.communicate()
    assert (disk.access, disk.held_by) == (READ_ONLY, ("another program, exclusively",))
    assert provider.describe(disk_id(node)).access == frozenset(Access)


def test_our_own_exclusive_hold_is_no_other_holder(
    provider: LocalProvider, raw: Path, loop: Callable[..., str], undo: ExitStack
) -> None:
    node = f"/dev/{loop(raw)}"
    undo.callback(os.close, os.open(node, os.O_RDONLY | os.O_EXCL))
    assert provider.describe(disk_id(node)).held_by == ()


def test_a_device_without_a_medium_is_no_disk(provider: LocalProvider, raw: Path, loop: Callable[..., str]) -> None:
    name = loop(raw)
    take_the_medium(name, raw)
    assert f"/dev/{name}" not in found(provider)
    with pytest.raises(DiskNotFound):
        provider.describe(disk_id(f"/dev/{name}"))


def test_partitions_that_outlived_their_medium_are_no_disks(
    provider: LocalProvider, partitioned: str, tmp_path: Path
) -> None:
    take_the_medium(partitioned, tmp_path / "disk")
    gone = {f"/dev/{partitioned}", f"/dev/{partitioned}p1"}
    assert not [native for native in found(provider) if native in gone]
    with pytest.raises(DiskNotFound):
        provider.describe(disk_id(f"/dev/{partitioned}p1"))


def take_the_medium(name: str, file: Path) -> None:
    """The loop device keeps its number and its partitions, and nobody else can take it, but it has no byte left."""
    os.truncate(file, 0)
    run("losetup", "--set-capacity", f"/dev/{name}")


@pytest.mark.parametrize("native", ["/dev/null", "/dev/pts", "/dev/../etc/passwd", "/dev/", "/dev/@"])
def test_what_is_no_block_device_is_refused(native: str, provider: LocalProvider) -> None:
    with pytest.raises(InvalidDiskId):
        provider.describe(disk_id(native))


@pytest.mark.parametrize("native", ["/dev/nothing", "/dev/disk/by-id/nothing", "/dev/vda/x", "/dev/" + "x" * 300])
def test_a_device_that_is_not_there_is_not_found(native: str, provider: LocalProvider) -> None:
    with pytest.raises(DiskNotFound):
        provider.describe(disk_id(native))


def test_devices_are_off_unless_they_are_switched_on(directory: Path) -> None:
    provider = LocalProvider("local", LocalSettings(images=(directory,)))
    assert found(provider) == {}
    with pytest.raises(DiskNotFound, match="devices = true"):
        provider.describe(disk_id("/dev/vda"))


def test_an_image_directory_below_dev_keeps_its_names(undo: ExitStack) -> None:
    directory = Path(f"/dev/shm/images-{os.getpid()}")  # noqa: S108 - this very directory is the case
    directory.mkdir()
    undo.callback(directory.rmdir)
    path = directory / "a.raw"
    path.write_bytes(b"x" * 512)
    undo.callback(path.unlink)
    provider = LocalProvider("local", LocalSettings(images=(directory,)))
    assert provider.locate(provider.describe(disk_id(path))).path == str(path)


@pytest.fixture
def dev(tmp_path: Path, raw: Path, loop: Callable[..., str]) -> tuple[Path, str]:
    """A /dev of its own, as a container may have one, with udev's links; and the loop device in it."""
    name = loop(raw)
    by_id = tmp_path / "dev/disk/by-id"
    by_id.mkdir(parents=True)
    os.mknod(tmp_path / "dev" / name, stat.S_IFBLK | 0o600, number(name))
    for link in ("wwn-0x5000c500", "ata-Maker_Model_S3R1AL", "scsi-SATA_Maker"):
        (by_id / link).symlink_to(f"../../{name}")
    return tmp_path / "dev", name


def test_every_name_of_a_device_is_one_disk_and_one_node(dev: tuple[Path, str], directory: Path) -> None:
    root, name = dev
    provider = LocalProvider("local", LocalSettings(devices=True), Roots(dev=root))
    names = [f"/dev/{name}", "/dev/disk/by-id/wwn-0x5000c500", "/dev/disk/by-id/scsi-SATA_Maker"]
    disks = [provider.describe(disk_id(native)) for native in names]
    assert len({disk.canonical_id for disk in disks}) == 1
    assert {provider.locate(disk).path for disk in disks} == {str(root / name)}


def test_the_list_names_devices_by_their_most_telling_link(dev: tuple[Path, str]) -> None:
    provider = LocalProvider("local", LocalSettings(devices=True), Roots(dev=dev[0]))
    assert "/dev/disk/by-id/ata-Maker_Model_S3R1AL" in found(provider)


def test_a_link_that_leads_to_another_disk_now_is_a_mismatch(
    dev: tuple[Path, str], partitioned: str, undo: ExitStack
) -> None:
    root, _name = dev
    provider = LocalProvider("local", LocalSettings(devices=True), Roots(dev=root))
    disk = provider.describe(disk_id("/dev/disk/by-id/ata-Maker_Model_S3R1AL"))
    os.mknod(root / "other", stat.S_IFBLK | 0o600, number(partitioned))
    (root / "disk/by-id/ata-Maker_Model_S3R1AL").unlink()
    (root / "disk/by-id/ata-Maker_Model_S3R1AL").symlink_to("../../other")
    with pytest.raises(DeviceMismatch):
        provider.locate(disk)


def test_a_node_that_is_another_devices_is_not_served(dev: tuple[Path, str], partitioned: str) -> None:
    """The link still leads to the right number, the kernel's name does not."""
    root, name = dev
    provider = LocalProvider("local", LocalSettings(devices=True), Roots(dev=root))
    disk = provider.describe(disk_id("/dev/disk/by-id/wwn-0x5000c500"))
    (root / name).rename(root / "right")
    os.mknod(root / name, stat.S_IFBLK | 0o600, number(partitioned))
    (root / "disk/by-id/wwn-0x5000c500").unlink()
    (root / "disk/by-id/wwn-0x5000c500").symlink_to("../../right")
    with pytest.raises(DeviceNotReady):
        provider.locate(disk)
