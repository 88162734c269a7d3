"""The testbed, each part by itself. Control groups and network namespaces need root."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.rig import leftovers, meter
from benchmarks.rig.cgroup import can_throttle, group, scheduled_together, throttle
from benchmarks.rig.disk import disk, random_image
from benchmarks.rig.execution import CommandFailed, ExecutionContext
from benchmarks.rig.images import system_image
from benchmarks.rig.network import network
from benchmarks.rig.readers import Source, dd, nbdcopy
from benchmarks.rig.relay import relay
from benchmarks.rig.servers import QemuNbdX509, serving
from benchmarks.rig.stream import stream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="control groups and network namespaces need root")

MIB = 2**20
PYTHON = sys.executable
RECEIVE = (
    "import socket,sys; s=socket.create_connection((sys.argv[1],int(sys.argv[2]))); print(len(s.makefile('rb').read()))"
)


def test_a_group_counts_what_its_processes_spent_also_those_that_have_ended() -> None:
    with group() as counted:
        ExecutionContext(counted).run(["sh", "-c", f"{PYTHON} -c 'sum(range(10**6))'"])
        assert counted.pids == []
        assert counted.cpu_seconds() > 0.005


def test_a_group_ends_what_was_left_in_the_background() -> None:
    with group() as counted:
        ExecutionContext(counted).run(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 &"])
        (pid,) = counted.pids
    assert not _is_running(pid)
    assert not counted.directory.exists()


@pytest.mark.skipif(not Path("/sys/fs/cgroup/cpu").exists(), reason="needs the cpu controller of cgroup version 1")
def test_what_is_scheduled_together_is_in_one_group_across_sessions_and_out_of_it_afterwards() -> None:
    before = own_groups()
    with scheduled_together():
        within = own_groups()
        child = subprocess.run(
            ["setsid", "cat", "/proc/self/cgroup"], check=True, capture_output=True, text=True
        ).stdout
    assert before != within == child
    assert own_groups() == before


@pytest.mark.skipif(not Path("/sys/fs/cgroup/cpu").exists(), reason="needs the cpu controller of cgroup version 1")
def test_what_is_scheduled_together_keeps_the_share_that_this_process_was_given() -> None:
    with scheduled_together():
        outer = own_cpu_group()
        with scheduled_together():
            assert own_cpu_group().startswith(f"{outer}/")
        assert own_cpu_group() == outer


def own_cpu_group() -> str:
    return next(line.split(":")[2] for line in own_groups().splitlines() if ":cpu:" in line)


def own_groups() -> str:
    return Path("/proc/self/cgroup").read_text()


def test_what_this_process_was_kept_from_cleaning_up_is_swept() -> None:
    with group() as counted:
        ExecutionContext(counted).run(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 &"])
        (pid,) = counted.pids
        leftovers.sweep_own()
        assert not _is_running(pid)
        assert not counted.directory.exists()


def test_a_command_that_fails_is_not_a_figure() -> None:
    with group() as counted, pytest.raises(CommandFailed, match="no such thing"):
        ExecutionContext(counted).run(["sh", "-c", "echo no such thing >&2; exit 3"])


def test_hosts_have_addresses_of_their_own_and_reach_this_machine() -> None:
    with group() as counted, network(2) as cables, stream(cables.address, MIB) as port:
        for host in cables.hosts:
            context = ExecutionContext(counted).on(host)
            assert context.run([PYTHON, "-c", RECEIVE, cables.address, str(port)]) == f"{MIB}\n"
        addresses = [
            ExecutionContext(counted).on(host).run(["ip", "-br", "address", "show", "eth0"]) for host in cables.hosts
        ]
        assert len({line.split()[2] for line in addresses}) == 2
    left = subprocess.run(["ip", "-br", "link"], check=True, capture_output=True, text=True).stdout
    assert not any(port in left for port in cables.ports)


def test_a_link_is_as_slow_as_it_is_told_and_not_slower_afterwards() -> None:
    with group() as counted, network(1) as cables, stream(cables.address, 2 * MIB) as port:
        context = ExecutionContext(counted).on(cables.hosts[0])

        def receive() -> float:
            began = time.perf_counter()
            context.run([PYTHON, "-c", RECEIVE, cables.address, str(port)])
            return time.perf_counter() - began

        cables.limit(10)
        assert receive() > (2 * MIB - 256 * 1024) * 8 / 10e6
        cables.limit(0)
        assert "tbf" not in context.run(["tc", "qdisc", "show", "dev", "eth0"])


def test_a_relay_adds_its_delay_in_both_directions_and_loses_nothing() -> None:
    far = "127.0.0.2"
    with group() as counted, stream("127.0.0.1", MIB) as port, relay(far, "127.0.0.1", [port], 0.2):
        began = time.perf_counter()
        assert ExecutionContext(counted).run([PYTHON, "-c", RECEIVE, far, str(port)]) == f"{MIB}\n"
        assert time.perf_counter() - began > 0.2


def test_a_disk_is_cold_after_it_was_made_so(tmp_path: Path) -> None:
    with group() as counted, disk(random_image(tmp_path / "image", 4 * MIB), 2 * MIB) as made:
        dd(Source(str(made.device), 2 * MIB), ExecutionContext(counted))
        made.make_cold()
        before = _sectors_read(made.device)
        dd(Source(str(made.device), 2 * MIB), ExecutionContext(counted))
        assert _sectors_read(made.device) - before == 2 * MIB // 512


@pytest.mark.skipif(not can_throttle(), reason="needs blkio of cgroup version 1")
def test_a_throttled_disk_gives_what_it_was_told_without_the_burst(tmp_path: Path) -> None:
    size = 4 * MIB
    with group() as counted, throttle() as limiter, disk(random_image(tmp_path / "image", size), size) as made:
        limiter.limit(made.number, 4_000_000)
        rate = dd(Source(str(made.device), size, skip_bytes=MIB), ExecutionContext(counted, limiter))
        assert rate < 4_400_000


def test_the_meter_leaves_out_what_came_first() -> None:
    program = "import sys,time; w=sys.stdout.buffer.write; w(bytes(2**20)); sys.stdout.flush(); "
    program += "[(time.sleep(0.05), w(bytes(1000)), sys.stdout.flush()) for _ in range(10)]"
    with subprocess.Popen([PYTHON, "-c", program], stdout=subprocess.PIPE) as writer:
        addresses = subprocess.run(
            [PYTHON, meter.__file__, str(MIB)], check=True, capture_output=True, stdin=writer.stdout
        )
    assert float(addresses.stdout) < 1000 / 0.05


def test_a_system_image_is_mostly_holes_and_sound(tmp_path: Path) -> None:
    image = system_image(tmp_path / "system.raw", 16 * MIB)
    assert image.stat().st_size == 16 * MIB
    assert 2 * MIB < image.stat().st_blocks * 512 < 8 * MIB
    subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True)


def test_the_server_with_certificates_is_read_with_certificates_only(tmp_path: Path) -> None:
    image = random_image(tmp_path / "image", MIB)
    with group() as counted, network(1) as cables:
        context = ExecutionContext(counted)
        with serving(QemuNbdX509(image, cables.address, 10809, tmp_path), context) as uri:
            assert nbdcopy(Source(uri, MIB), context.on(cables.hosts[0])) > 0
            with pytest.raises(CommandFailed):
                context.run(["nbdinfo", uri.partition("?")[0]])


def _sectors_read(device: Path) -> int:
    return int(Path("/sys/block", device.name, "stat").read_text().split()[2])


def _is_running(pid: int) -> bool:
    """A zombie is not; whoever inherits it reaps it in his own time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
