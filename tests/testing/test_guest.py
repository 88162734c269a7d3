"""A guest shows its disks as a cloud's machine does, with real block devices behind them."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.providers import _nvme, _scsi
from cloudmanager.providers._block_devices import BlockDevice, BlockDevices
from cloudmanager.testing.cloud import backing, loop_device
from cloudmanager.testing.cloud.faults import Effect, Fault, Faults
from cloudmanager.testing.cloud.guest import Guest
from cloudmanager.testing.cloud.hardware import Hardware, NvmeNamespace, ScsiDisk, XenDisk
from cloudmanager.testing.cloud.timeline import Timeline

MIB = 1024 * 1024
LINK = "disk/by-id/google-evidence"


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def timeline() -> Timeline:
    return Timeline()


@pytest.fixture
def guest(tmp_path: Path, faults: Faults, timeline: Timeline) -> Iterator[Guest]:
    guest = Guest(tmp_path / "guest", faults, timeline)
    yield guest
    guest.close()


@pytest.fixture
def disk_file(tmp_path: Path) -> Path:
    file = backing.make(tmp_path / "disk.img", 8 * MIB)
    with file.open("r+b") as opened:
        opened.write(b"evidence")
    return file


def scsi(serial: str = "evidence", target: int = 1) -> ScsiDisk:
    return ScsiDisk("Google", "PersistentDisk", serial, (0, 0, target, 0))


def seen(guest: Guest) -> dict[str, BlockDevice]:
    return {device.name: device for device in BlockDevices(guest.dev, guest.sys)}


def test_a_plugged_disk_is_a_block_device_with_the_files_bytes(guest: Guest, disk_file: Path) -> None:
    guest.plug("d", disk_file, scsi(), [LINK])
    node = guest.plugged["d"].node
    assert stat.S_ISBLK(node.stat().st_mode)
    assert (guest.dev / LINK).resolve() == node
    with node.open("rb") as opened:
        assert opened.read(8) == b"evidence"


def test_what_is_written_to_the_device_is_in_the_file(guest: Guest, disk_file: Path) -> None:
    guest.plug("d", disk_file, scsi())
    descriptor = os.open(guest.plugged["d"].node, os.O_WRONLY | os.O_SYNC)
    os.pwrite(descriptor, b"changed!", 0)
    os.close(descriptor)
    assert disk_file.read_bytes()[:8] == b"changed!"


def test_a_disk_that_is_plugged_read_only_refuses_writes(guest: Guest, disk_file: Path) -> None:
    guest.plug("d", disk_file, scsi(), read_only=True)
    with pytest.raises(PermissionError), guest.plugged["d"].node.open("r+b", buffering=0) as opened:
        opened.write(bytes(512))
    assert seen(guest)["sda"].is_read_only


def test_sysfs_says_what_the_device_is(guest: Guest, disk_file: Path) -> None:
    guest.plug("d", disk_file, scsi())
    device = seen(guest)["sda"]
    assert device.as_device().size_bytes == 8 * MIB
    assert device.as_device().identity.device == guest.plugged["d"].node.stat().st_rdev
    assert (device.text("device/vendor"), device.text("device/model")) == ("Google", "PersistentDisk")


def test_a_scsi_disk_names_itself_in_its_vital_product_data(guest: Guest, disk_file: Path) -> None:
    guest.plug("d", disk_file, scsi("evidence-7", target=3))
    device = seen(guest)["sda"]
    assert _scsi.vendor_serials(device) == {"evidence-7"}
    assert _scsi.address(device) == _scsi.ScsiAddress(0, 0, 3, 0)


def test_an_nvme_disk_has_a_controller_of_its_own_or_shares_one(guest: Guest, disk_file: Path) -> None:
    guest.plug("own-1", disk_file, NvmeNamespace("Amazon Elastic Block Store", "vol1", pci_vendor=0x1D0F))
    guest.plug("own-2", disk_file, NvmeNamespace("Amazon Elastic Block Store", "vol2"))
    shared = [NvmeNamespace("nvme_card-pd", "card", nsid=nsid, controller=7) for nsid in (3, 9)]
    for number, hardware in enumerate(shared):
        guest.plug(f"shared-{number}", disk_file, hardware)
    found = {name: (_nvme.serial(device), _nvme.nsid(device)) for name, device in seen(guest).items()}
    assert found == {"nvme0n1": ("vol1", 1), "nvme1n1": ("vol2", 1), "nvme7n1": ("card", 3), "nvme7n2": ("card", 9)}


def test_identify_data_is_read_through_the_same_door_as_a_real_controllers(guest: Guest, disk_file: Path) -> None:
    identify = bytes(384) + b'{"device_name": "evidence"}' + bytes(4096 - 384 - 27)
    guest.plug("d", disk_file, NvmeNamespace("nvme_card-pd", "card", identify_namespace=identify))
    assert _nvme.identify_namespace(seen(guest)["nvme0n1"]) == identify


@pytest.mark.parametrize("hardware", [scsi(), NvmeNamespace("m", "s"), XenDisk("xvdf", 51792)])
def test_an_unplugged_disk_leaves_nothing_behind(guest: Guest, disk_file: Path, hardware: Hardware) -> None:
    guest.plug("d", disk_file, hardware, [LINK])
    loop = guest.plugged["d"].loop
    guest.unplug("d")
    assert seen(guest) == {}
    assert [path for path in guest.dev.rglob("*") if not path.is_dir()] == []
    assert loop_device.backing_file(loop) != str(disk_file)
    guest.plug("d", disk_file, hardware, [LINK])
    assert len(seen(guest)) == 1


def test_a_free_name_is_used_again_as_the_kernel_does(guest: Guest, disk_file: Path) -> None:
    for key, target in (("a", 1), ("b", 2), ("c", 3)):
        guest.plug(key, disk_file, scsi(key, target))
    guest.unplug("b")
    guest.plug("d", disk_file, scsi("d", 4))
    assert {key: disk.name for key, disk in guest.plugged.items()} == {"a": "sda", "c": "sdc", "d": "sdb"}


def test_a_disk_that_is_unplugged_while_it_is_open_is_noted_as_a_surprise(guest: Guest, disk_file: Path) -> None:
    guest.plug("d", disk_file, scsi())
    descriptor = os.open(guest.plugged["d"].node, os.O_RDONLY)
    try:
        guest.unplug("d")
        assert guest.surprises == ["d"]
    finally:
        os.close(descriptor)


def test_a_late_device_appears_when_its_time_has_come(
    guest: Guest, faults: Faults, timeline: Timeline, disk_file: Path
) -> None:
    timeline.freeze()
    faults.add(Fault("guest.plug", Effect.LATE, seconds=30))
    guest.plug("d", disk_file, scsi())
    timeline.advance(29)
    assert seen(guest) == {}
    timeline.advance(2)
    assert set(seen(guest)) == {"sda"}


def test_a_device_that_was_unplugged_before_it_appeared_does_not_appear(
    guest: Guest, faults: Faults, timeline: Timeline, disk_file: Path
) -> None:
    faults.add(Fault("guest.plug", Effect.HANG))
    guest.plug("d", disk_file, scsi())
    guest.unplug("d")
    timeline.release()
    assert seen(guest) == {}


def test_a_device_may_stay_after_its_detach(guest: Guest, faults: Faults, timeline: Timeline, disk_file: Path) -> None:
    guest.plug("d", disk_file, scsi())
    faults.add(Fault("guest.unplug", Effect.HANG))
    guest.unplug("d")
    assert set(seen(guest)) == {"sda"}
    timeline.release()
    assert seen(guest) == {}


def test_wrong_links_lead_where_the_fault_says(guest: Guest, faults: Faults, disk_file: Path) -> None:
    guest.plug("other", disk_file, scsi("other", 9))
    for number, effect in enumerate(
        (Effect.NO_LINK, Effect.STALE_LINK, Effect.SWAPPED_LINK, Effect.PARTITION_LINK, Effect.CONTROLLER_LINK)
    ):
        faults.add(Fault("guest.plug", effect))
        guest.plug(effect, disk_file, scsi(effect, number + 1), [f"disk/by-id/{effect}"])
    links = {effect: guest.dev / f"disk/by-id/{effect}" for effect in guest.plugged if effect != "other"}
    assert not links["no-link"].is_symlink()
    assert not links["stale-link"].exists()
    assert links["swapped-link"].resolve() == guest.plugged["other"].node
    assert (guest.sys / "class/block" / links["partition-link"].resolve().name / "partition").exists()
    assert stat.S_ISCHR(links["controller-link"].stat().st_mode)


def test_an_identity_can_be_missing_or_anothers(guest: Guest, faults: Faults, disk_file: Path) -> None:
    faults.add(Fault("guest.plug", Effect.NO_IDENTITY, target="mute"))
    faults.add(Fault("guest.plug", Effect.WRONG_IDENTITY, target="liar"))
    guest.plug("mute", disk_file, scsi("mute", 1))
    guest.plug("liar", disk_file, scsi("liar", 2))
    names = {key: _scsi.vendor_serials(seen(guest)[disk.name]) for key, disk in guest.plugged.items()}
    assert names["mute"] == set()
    assert names["liar"] == {"xxxx"}


def test_what_a_killed_emulator_left_is_freed_by_the_next(tmp_path: Path, guest: Guest, disk_file: Path) -> None:
    guest.plug("d", disk_file, scsi())
    loop = guest.plugged["d"].loop
    loop_device.detach_all(tmp_path)
    assert loop_device.backing_file(loop) != str(disk_file)


def test_a_device_that_was_set_read_only_is_writable_for_its_next_user(guest: Guest, disk_file: Path) -> None:
    """As the service does with what it exports; the kernel keeps that beyond the loop device's detach."""
    for _ in range(2):
        guest.plug("d", disk_file, scsi())
        node = guest.plugged["d"].node
        with node.open("r+b", buffering=0) as opened:
            opened.write(bytes(512))
        subprocess.run(["blockdev", "--setro", node], check=True)
        assert seen(guest)["sda"].is_read_only
        guest.unplug("d")
