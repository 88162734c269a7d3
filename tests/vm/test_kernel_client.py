"""The client in a real guest: the kernel's own NBD driver reads what `cloudmanager serve` on this machine exports.

Workers run in the virtual machine and reach the service through QEMU's user network. What they read is small: the
emulated processor takes in about 7 MB/s.
"""

import errno
import hashlib
import os
import secrets
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from tests.client.access_methods import disks
from tests.client.daemon import Daemon
from tests.client.test_sector_size import partitioned
from tests.ports import free_port
from tests.vm.evidence import PARTITIONS, make_evidence
from tests.vm.virtual_machine import HOST, VirtualMachine
from tests.vm.worker import Worker, assignments, bring_programs
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600, func_only=True)]  # a fixture makes the image

LOOPBACK = "127.0.0.1"
PYTHON_PATH = "/run/code:/opt/code:/opt/site"
MODULES = "nbd loop fuse"
SMALL = ("small-0.raw", "small-1.raw", "small-2.raw", "small-3.raw")
SMALL_BYTES = 512 * 1024
LARGE_SECTORS = "large-sectors.raw"
"""Its partition table was made on a disk with sectors of 4096 bytes."""
TTL_SECONDS = 120
LEFT_BEHIND = """
grep -l . /sys/block/nbd*/pid
grep -H -v '^0$' /sys/block/nbd*/size
ls -d /sys/block/nbd*/nbd*p*
grep -e /dev/nbd -e /dev/loop -e /dev/fuse -e nbdfuse /proc/mounts
losetup --list --noheadings --output NAME,BACK-FILE
ls /run/cloudmanager-client
:
"""


@dataclass(frozen=True)
class Held:
    """A device that a worker keeps connected."""

    worker: Worker
    path: str
    size_bytes: int
    is_writable: bool
    starts: Mapping[str, int]
    """Partition's device → its first byte."""
    port: int
    """Of the export, on this machine."""


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_evidence(tmp_path_factory.mktemp("evidence"))


@pytest.fixture(scope="module")
def daemon(evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    token = secrets.token_urlsafe(16)
    digest = hashlib.sha256(token.encode()).hexdigest()
    directory = tmp_path_factory.mktemp("service")
    running = Daemon(directory, server={"token_sha256": [digest]}, nbd={"advertise": HOST})
    running.token = token
    for name in ("evidence.raw", "written.raw", "replayed.raw"):
        disks.run("cp", "--sparse=always", evidence, running.images / name)
    for name in SMALL:
        running.image(name, os.urandom(SMALL_BYTES))
    partitioned(running.images / LARGE_SECTORS, 4096, "gpt")
    try:
        running.started()
        yield running
    finally:
        running.end()


@pytest.fixture(scope="module")
def guest(vm: VirtualMachine) -> VirtualMachine:
    """With the modules that the administrator of a worker's host loads."""
    vm.agent.read(f"for module in {MODULES}; do modprobe $module; done; udevadm settle")
    bring_programs(vm)
    return vm


@pytest.fixture(scope="module")
def environment(daemon: Daemon) -> dict[str, str]:
    assert daemon.token
    return {
        "PATH": "/usr/sbin:/usr/bin",
        "PYTHONPATH": PYTHON_PATH,
        "CLOUDMANAGER_URL": daemon.url.replace(LOOPBACK, HOST),
        "CLOUDMANAGER_TOKEN": daemon.token,
    }


@pytest.fixture(scope="module")
def start(guest: VirtualMachine, environment: Mapping[str, str]) -> Callable[..., Worker]:
    return lambda program, **variables: Worker(guest, program, {**environment, **variables})


@pytest.fixture(scope="module")
def held(guest: VirtualMachine, daemon: Daemon, start: Callable[..., Worker]) -> Iterator[Held]:
    """Through several tests, restarts and other devices; at the end nothing has been noticed of those."""
    before = left_behind(guest)
    worker = start("hold", DISK="local:evidence.raw")
    report = worker.report()
    port = int(report["uri"].rpartition(":")[2].partition("/")[0])
    yield Held(worker, report["path"], report["size"], report["writable"], report["starts"], port)
    worker.finish()
    wait_for_left_behind(guest, before)
    eventually(lambda: in_use(daemon) == set())


@pytest.fixture(autouse=True)
def nothing_is_left(guest: VirtualMachine, held: Held, daemon: Daemon) -> Iterator[None]:
    before, claims = left_behind(guest), in_use(daemon)
    yield
    wait_for_left_behind(guest, before)
    eventually(lambda: in_use(daemon) == claims)


def left_behind(guest: VirtualMachine) -> str:
    """What is connected, mounted, or written down to be undone."""
    return guest.agent.read(f"exec 2>/dev/null; {LEFT_BEHIND}")


def wait_for_left_behind(guest: VirtualMachine, expected: str) -> None:
    """The kernel lets go of a device a moment after the last who used it."""
    eventually(lambda: left_behind(guest) == expected)
    guest.agent.read("udevadm settle")
    assert left_behind(guest) == expected


def in_use(daemon: Daemon) -> set[object]:
    return {export["id"] for export in daemon.exports() if export["state"] not in ("closed", "failed")}


def digest_in(guest: VirtualMachine, path: str) -> str:
    """Of what the server has, not of what the machine remembers."""
    return guest.agent.read(f"blockdev --flushbufs {path}; sha256sum <{path}").split()[0]


def cloudmanager(guest: VirtualMachine, environment: Mapping[str, str], *arguments: str) -> str:
    """The command line, in the machine."""
    return guest.agent.read(f"{assignments(environment)} python3 -m cloudmanager {shlex.join(arguments)}", timeout=120)


def test_the_kernel_reads_what_the_image_holds(guest: VirtualMachine, held: Held, evidence: Path) -> None:
    assert held.size_bytes == evidence.stat().st_size
    assert digest_in(guest, held.path) == disks.digest(evidence)


def test_the_kernel_finds_the_partitions(guest: VirtualMachine, held: Held, evidence: Path) -> None:
    assert list(held.starts.values()) == disks.starts(evidence)
    assert list(held.starts) == [f"{held.path}p{number}" for number in PARTITIONS]
    types = [guest.agent.read(f"blkid --probe --output value --match-tag TYPE {path}") for path in held.starts]
    assert types == list(PARTITIONS.values())


def test_the_kernel_finds_the_partition_of_a_disk_with_large_sectors(
    guest: VirtualMachine, start: Callable[..., Worker]
) -> None:
    worker = start("hold", DISK=f"local:{LARGE_SECTORS}")
    report = worker.report()
    assert guest.agent.read(f"blockdev --getss {report['path']}") == "4096"
    assert report["starts"] == {f"{report['path']}p1": 2**20}
    assert guest.agent.read(f"blkid --probe --output value --match-tag TYPE {report['path']}p1") == "ext2"
    worker.finish()


def test_a_device_of_a_read_only_export_refuses_writes(guest: VirtualMachine, held: Held) -> None:
    assert not held.is_writable
    for path in (held.path, *held.starts):
        assert guest.agent.read(f"blockdev --getro {path}") == "1"
        refused = guest.agent.run(f"dd if=/dev/zero of={path} bs=4096 count=1 conv=fsync,notrunc")
        assert "Operation not permitted" in refused.output
        guest.agent.read("udevadm settle")  # it looks for the partitions anew after somebody who could have written


def test_the_kernel_has_several_connections_and_reads_ahead(guest: VirtualMachine, held: Held) -> None:
    connections = guest.agent.read(f"ss -Htn state established dst {HOST}:{held.port}").splitlines()
    assert len(connections) == 2
    assert guest.agent.read(f"blockdev --getra {held.path}") == str(4 * 2**20 // 512)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_kernel_does_not_notice_that_the_service_is_restarted(
    guest: VirtualMachine, held: Held, daemon: Daemon, evidence: Path, number: signal.Signals
) -> None:
    guest.agent.read("dmesg --clear; rm -f /run/enough /run/digests")
    reading = f"dd if={held.path} bs=64K iflag=direct status=none"
    loop = f"while [ ! -e /run/enough ]; do {reading} | sha256sum; done >/run/digests 2>&1; : >/run/read"
    guest.agent.read(f"rm -f /run/read; setsid sh -c {shlex.quote(loop)} </dev/null >/dev/null 2>&1 &")
    before = held.worker.ask("how are you?")

    daemon.stop(number)
    daemon.started()

    eventually(lambda: held.worker.ask("how are you?")["expires"] > before["expires"], seconds=TTL_SECONDS)
    guest.agent.read(": >/run/enough")
    eventually(lambda: guest.agent.run("test -e /run/read").status == 0)
    assert set(guest.agent.read("cut -d ' ' -f 1 /run/digests").split()) == {disks.digest(evidence)}
    assert guest.agent.read("dmesg | grep -e nbd -e 'I/O error' || :") == ""
    assert held.worker.ask("how are you?") | {"expires": ""} == {"lost": None, "disconnected": False, "expires": ""}


def test_dirty_journals_are_not_replayed_though_the_disk_may_be_written(
    daemon: Daemon, start: Callable[..., Worker], evidence: Path
) -> None:
    worker = start("mount")
    ext4, xfs = worker.report(), worker.report()
    worker.finish()
    assert [each["type"] for each in (ext4, xfs)] == ["ext4", "xfs"]
    assert [each["greeting"] for each in (ext4, xfs)] == [disks.GREETING] * 2
    assert {"ro", "norecovery"} <= set(ext4["options"]) & set(xfs["options"])
    assert ext4["source"].endswith("p1")
    assert xfs["source"].endswith("p2")
    assert disks.digest(daemon.images / "written.raw") == disks.digest(evidence)


def test_an_ordinary_read_only_mount_would_have_replayed_them(
    guest: VirtualMachine, daemon: Daemon, start: Callable[..., Worker], evidence: Path
) -> None:
    """So the journals are dirty, and the comparison of the images sees it."""
    worker = start("replay")
    for partition in worker.report()["partitions"]:
        before = digest_in(guest, partition)
        guest.agent.read(f"mount -o ro {partition} /mnt && umount /mnt")
        assert digest_in(guest, partition) != before
    worker.finish()
    assert disks.digest(daemon.images / "replayed.raw") != disks.digest(evidence)


def test_devices_that_are_connected_at_once_are_different_ones(
    daemon: Daemon, held: Held, start: Callable[..., Worker]
) -> None:
    worker = start("race")
    found = worker.report()["found"]
    worker.finish()
    assert {name: digest for name, (_, digest) in found.items()} == {
        name: disks.digest(daemon.images / name) for name in SMALL
    }
    assert len({held.path, *(path for path, _ in found.values())}) == len(SMALL) + 1


@pytest.fixture
def starved(guest: VirtualMachine) -> Iterator[None]:
    """The machine's processors are busy, and its kernel is the last to get a turn when it wants to start a thread."""
    busy = "timeout 30 sh -c 'while :; do :; done'"
    guest.agent.read(f"renice -n 19 -p $(pgrep -x kthreadd); for each in 1 2 3; do {busy} >/dev/null 2>&1 & done")
    yield
    guest.agent.read("renice -n 0 -p $(pgrep -x kthreadd)")


def test_a_kernel_that_is_short_of_threads_leaves_no_connection_unread(
    start: Callable[..., Worker], starved: None
) -> None:
    """A request on a connection that it does not listen on would take two minutes."""
    worker = start("race")
    assert len(worker.report()["found"]) == len(SMALL)
    worker.finish()


def test_a_lost_server_is_an_error_of_every_read_and_of_the_worker(
    daemon: Daemon, start: Callable[..., Worker]
) -> None:
    worker = start("lose")
    report = worker.report()
    os.kill(daemon.server_pid(report["export"]), signal.SIGKILL)
    assert worker.ask("read") == {"errno": errno.EIO}
    assert report["path"] in worker.ask("")["lost"]
    worker.finish()


def test_a_lost_device_never_becomes_the_disk_of_another_worker(
    guest: VirtualMachine, daemon: Daemon, start: Callable[..., Worker]
) -> None:
    """Whoever opens it, as long as its own worker has not given it back."""
    loser = start("lose")
    lost = loser.report()
    os.kill(daemon.server_pid(lost["export"]), signal.SIGKILL)
    assert loser.ask("read") == {"errno": errno.EIO}

    other = start("hold", DISK="local:small-1.raw")
    found = other.report()
    assert found["path"] != lost["path"]
    assert digest_in(guest, found["path"]) == disks.digest(daemon.images / "small-1.raw")
    assert loser.ask("read") == {"errno": errno.EIO}
    assert "Input/output error" in guest.agent.run(f"dd if={lost['path']} of=/dev/null bs=4096 count=1").output

    assert lost["path"] in loser.ask("")["lost"]
    for worker in (loser, other):
        worker.finish()


def test_after_a_killed_worker_cleanup_disconnects_everything(
    guest: VirtualMachine, environment: Mapping[str, str], daemon: Daemon, start: Callable[..., Worker]
) -> None:
    worker = start("die")
    report = worker.report()
    worker.kill()
    assert guest.agent.run(f"mountpoint {report['files']}").status == 0
    assert report["files"] in cloudmanager(guest, environment, "cleanup")
    daemon.release(report["export"])  # or it expires by itself


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Here; BlockDevice locks the devices that it connects there."""
    port = free_port()
    directory = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", str(port), "--bind", LOOPBACK, "--save", "", "--dir", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            eventually(lambda: answers(port))
            yield f"redis://{HOST}:{port}/0"
        finally:
            server.terminate()


def answers(port: int) -> bool:
    try:
        with redis.Redis(LOOPBACK, port) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.mark.parametrize(("method", "device"), [("device", "/dev/loop"), ("file", "/dev/loop"), ("stub", "/dev/nbd")])
def test_openreliks_block_device_mounts_what_it_is_given(
    start: Callable[..., Worker], redis_url: str, daemon: Daemon, evidence: Path, method: str, device: str
) -> None:
    """Its own code, unchanged: a loop device on ours or on the file, qemu-nbd on the stub."""
    worker = start("block_device", WAY=method, REDIS_URL=redis_url)
    report = worker.report()
    worker.finish()
    assert report["device"].startswith(device)
    assert report["greetings"] == [disks.GREETING] * len(PARTITIONS)
    assert disks.digest(daemon.images / "evidence.raw") == disks.digest(evidence)


def test_a_person_runs_any_tool_on_the_device(
    guest: VirtualMachine, environment: Mapping[str, str], evidence: Path
) -> None:
    printed = cloudmanager(guest, environment, "run", "local:evidence.raw", "--", "sha256sum", "{device}")
    digest, path = printed.splitlines()[-1].split()
    assert digest == disks.digest(evidence)
    assert path.startswith("/dev/nbd")


def test_a_person_attaches_a_part_until_it_is_enough(guest: VirtualMachine, environment: Mapping[str, str]) -> None:
    """`attach` stays until it is ended."""
    guest.agent.read("mkdir -p /run/evidence")
    attach = f"{assignments(environment)} exec python3 -m cloudmanager attach local:evidence.raw /run/evidence --part 2"
    pid = guest.agent.read(f"sh -c {shlex.quote(attach)} </dev/null >/run/attached 2>&1 & echo $!")
    eventually(lambda: guest.agent.run("test -e /run/evidence/greeting").status == 0, seconds=120)
    assert guest.agent.read("cat /run/evidence/greeting") + "\n" == disks.GREETING
    assert guest.agent.read("findmnt --noheadings --output SOURCE /run/evidence").startswith("/dev/nbd")
    guest.agent.read(f"kill -TERM {pid}")
    eventually(lambda: guest.agent.run("test -e /run/evidence/greeting").status != 0)
