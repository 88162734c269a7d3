"""What a machine can be given, without an operating system in it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.testing.cloud import backing
from cloudmanager.testing.cloud.faults import Effect, Fault, Faults
from cloudmanager.testing.cloud.hardware import Hardware, NvmeNamespace, ScsiDisk, XenDisk
from cloudmanager.testing.cloud.machine import NVME_SLOTS, Machine, hotplug_arguments
from cloudmanager.testing.cloud.machine_guest import MachineGuest
from cloudmanager.testing.cloud.qmp import Qmp, QmpError
from cloudmanager.testing.cloud.timeline import Timeline
from tests.vm.virtual_machine import listener

pytestmark = pytest.mark.slow

GOOGLE = ScsiDisk("Google", "PersistentDisk", "evidence-7", (0, 0, 1, 0))
UNFIT = {
    "a Xen disk": XenDisk("xvdf", 51792),
    "a page 0x83 of Azure's": ScsiDisk("Msft", "Virtual Disk", "1", (0, 0, 0, 0), page83=b"\0\x83\0\0"),
    "a disk on Hyper-V's bus": ScsiDisk("Msft", "Disk", "1", (0, 0, 0, 0), controller_attributes={"device_id": "{1}"}),
    "a namespace of a shared controller": NvmeNamespace("nvme_card-pd", "nvme_card-pd", controller=0),
    "a serial that is too long": NvmeNamespace("", "v" * 21),
}


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Qmp]:
    """Of a machine that stands still."""
    path = tmp_path / "monitor"
    options = ("-M", "q35", "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-qmp", f"unix:{path}")
    with listener(path) as waiting:
        process = subprocess.Popen(["qemu-system-x86_64", *options, *hotplug_arguments()])
        try:
            with waiting.accept()[0] as connection:
                monitor = Qmp(connection)
                yield monitor
                monitor.execute("quit")
        finally:
            process.wait(timeout=20)


@pytest.fixture
def machine(monitor: Qmp) -> Machine:
    return Machine(monitor)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return backing.make(tmp_path / "disk", 1024**2)


def test_a_disk_is_there_after_plug_and_gone_after_unplug(machine: Machine, monitor: Qmp, file: Path) -> None:
    machine.plug("seven", file, GOOGLE, read_only=True)
    (disk,) = [node for node in monitor.execute("query-named-block-nodes") if node["file"] == str(file)]
    assert disk["ro"]
    assert machine.plugged == {"seven"}

    machine.unplug("seven")
    assert monitor.execute("query-named-block-nodes") == []
    assert machine.plugged == frozenset()


@pytest.mark.parametrize("hardware", UNFIT.values(), ids=UNFIT.keys())
def test_hardware_that_qemu_has_not_is_refused(machine: Machine, monitor: Qmp, file: Path, hardware: Hardware) -> None:
    with pytest.raises(ValueError, match="QEMU has no device like this"):
        machine.plug("unfit", file, hardware)
    assert monitor.execute("query-named-block-nodes") == []


def test_slots_end(machine: Machine, file: Path) -> None:
    for number in range(len(NVME_SLOTS)):
        machine.plug(f"vol-{number}", backing.copy(file, file.with_name(str(number))), NvmeNamespace("", f"{number}"))
    with pytest.raises(ValueError, match="slots of the machine are taken"):
        machine.plug("one-more", file, NvmeNamespace("", "one-more"))


def test_a_file_that_cannot_be_opened_leaves_nothing_behind(machine: Machine, file: Path) -> None:
    with pytest.raises(QmpError, match="blockdev-add"):
        machine.plug("seven", file.with_name("missing"), GOOGLE)
    assert machine.plugged == frozenset()


def test_a_file_that_is_plugged_in_already_is_refused(machine: Machine, monitor: Qmp, file: Path) -> None:
    machine.plug("seven", file, GOOGLE)
    with pytest.raises(QmpError, match=r"device_add.*lock"):
        machine.plug("seven again", file, GOOGLE)
    assert len(monitor.execute("query-named-block-nodes")) == 1


def test_a_guest_plays_late_disks_and_refuses_false_links(machine: Machine, tmp_path: Path, file: Path) -> None:
    faults, timeline = Faults(), Timeline()
    guest = MachineGuest(machine, tmp_path / "guest", faults, timeline)
    faults.add(Fault("guest.plug", Effect.HANG))
    guest.plug("seven", file, GOOGLE)
    assert machine.plugged == frozenset()
    timeline.release()
    assert machine.plugged == {"seven"}
    guest.close()
    assert machine.plugged == frozenset()

    faults.add(Fault("guest.plug", Effect.SWAPPED_LINK))
    with pytest.raises(ValueError, match="a real guest cannot play swapped-link"):
        guest.plug("seven", file, GOOGLE)
