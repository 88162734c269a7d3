"""Many clients, many disks, and everything that can go wrong going wrong: nothing is lost, slow or left over.

`make test-load` plays it at full size; LOAD_SECONDS, LOAD_EXPORTS, LOAD_DISKS and LOAD_CLIENTS change that.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import pytest

from tests.faults import invariants
from tests.faults.file_cloud import FileCloud
from tests.faults.world import kill
from tests.load.client import BLOCK, Client, Disk
from tests.load.daemon import Daemon
from tests.load.latencies import Latencies
from tests.load.plugin import FAILURES

MiB = 1 << 20
DISK_BYTES = 8 * MiB
KILL_EVERY_SECONDS = 2.0
RESTARTS = 4
"""All in the first third, so that the memory of one process can be compared over the other two."""
END_SECONDS = 60.0


@dataclass(frozen=True)
class Scale:
    """How much is asked of the service, and how fast it has to be."""

    seconds: float
    exports: int
    disks: int
    clients: int
    p99_seconds: float
    growth: float
    """By how much the memory of the last third may exceed that of the second."""


def _scale() -> Scale:
    if "LOAD_SECONDS" not in os.environ:
        return Scale(45, 100, 40, 16, 3.0, 1.5)  # the machine has other things to do, and the service has just begun
    exports, disks, clients = (int(os.environ.get(f"LOAD_{name}", size)) for name, size in _FULL)
    return Scale(float(os.environ["LOAD_SECONDS"]), exports, disks, clients, 0.25, 1.1)


_FULL = (("EXPORTS", 500), ("DISKS", 200), ("CLIENTS", 64))


@dataclass
class Course:
    """What happened while it ran."""

    resident: list[tuple[float, int]] = field(default_factory=list)
    """(moment, bytes) of the service."""
    kills: int = 0
    restarts: int = 0

    def resident_mean(self, since: float, until: float) -> float:
        return fmean(size for moment, size in self.resident if since <= moment < until)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.kill()
    for pid in _served(daemon.state).values():
        kill(pid)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_load_and_faults_leave_the_service_quick_flat_and_clean(daemon: Daemon) -> None:
    scale = _scale()
    disks = _make_disks(daemon.file_cloud, scale)
    daemon.start()
    times, stop = Latencies(), threading.Event()
    clients = [_client(number, daemon, disks, scale, stop, times) for number in range(scale.clients)]
    for client in clients:
        client.start()
    course = _run(daemon, scale, clients, times)
    stop.set()
    with times.suspended():  # everybody releases everything at once: that is no part of the time that was asked for
        for client in clients:
            client.join()
    assert [str(client.wrong) for client in clients if client.wrong] == []
    _end(daemon)
    _report(scale, course, clients, times, daemon)
    assert _left(daemon) == []
    assert daemon.errors() == []
    second, last = _thirds(course, scale)
    assert last < scale.growth * second, f"resident memory grew from {second / MiB:.0f} to {last / MiB:.0f} MiB"
    assert times.summaries()[-1].p99 < scale.p99_seconds


def _make_disks(file_cloud: Path, scale: Scale) -> list[Disk]:
    made = FileCloud(file_cloud)
    chance = random.Random(0)  # noqa: S311 - any bytes will do
    disks = []
    for number in range(scale.disks):
        disk = Disk(f"disk-{number}.img", chance.randbytes(BLOCK), is_private=number < scale.clients // 2)
        with (made.disks / disk.name).open("wb") as file:
            file.write(disk.first_block)
            file.truncate(DISK_BYTES)
        disks.append(disk)
    return disks


def _client(
    number: int, daemon: Daemon, disks: list[Disk], scale: Scale, stop: threading.Event, times: Latencies
) -> Client:
    """Every second client has a disk of its own, besides those that all share."""
    private = [disks[number // 2]] if number % 2 == 0 else []
    shared = [disk for disk in disks if not disk.is_private]
    share = (scale.exports + number) // scale.clients
    return Client(number, daemon.port, private + shared, share, stop, times)


def _run(daemon: Daemon, scale: Scale, clients: list[Client], times: Latencies) -> Course:
    """Kills servers all the time and the service in the first third."""
    course = Course()
    chance = random.Random(0)  # noqa: S311 - no secret
    began = time.monotonic()
    restarts = [scale.seconds / 3 * (number + 1) / (RESTARTS + 1) for number in range(RESTARTS)]
    kill_at = KILL_EVERY_SECONDS
    while (now := time.monotonic() - began) < scale.seconds and not any(client.wrong for client in clients):
        course.resident.append((now, daemon.resident_bytes()))
        if now > kill_at:
            kill_at = now + KILL_EVERY_SECONDS
            course.kills += _kill_one(daemon.state, chance)
        if restarts and now > restarts[0]:
            restarts.pop(0)
            course.restarts += 1
            with times.suspended():
                (daemon.kill if len(restarts) % 2 else daemon.stop)()
                daemon.start()
        time.sleep(0.5)
    return course


def _kill_one(state: Path, chance: random.Random) -> int:
    pids = sorted(_served(state).values())
    if not pids:
        return 0
    kill(chance.choice(pids))
    return 1


def _served(state: Path) -> dict[str, int]:
    """The names of this service's exports → the process that serves each."""
    with invariants.reading(state) as store:
        names = {name for (name,) in store.execute("SELECT name FROM exports")}
    return {name: pid for name, pid in invariants.servers() if name in names}


def _end(daemon: Daemon) -> None:
    """Returns when every export is over and every disk is back."""
    deadline = time.monotonic() + END_SECONDS
    while left := [*_served(daemon.state), *FileCloud(daemon.file_cloud).holders(), *_attached(daemon.state)]:
        assert time.monotonic() < deadline, f"after {END_SECONDS:.0f} s there are still {left}"
        time.sleep(0.1)
    daemon.stop()


def _attached(state: Path) -> list[str]:
    with invariants.reading(state) as store:
        return [str(row[0]) for row in store.execute("SELECT canonical_id FROM attachments")]


def _left(daemon: Daemon) -> list[str]:
    unfinished = "SELECT id, state FROM exports WHERE state != 'closed'"
    with invariants.reading(daemon.state) as store:
        exports = [f"{export} is {state}" for export, state in store.execute(unfinished)]
    return [*exports, *invariants.left_over(daemon.state)]


def _thirds(course: Course, scale: Scale) -> tuple[float, float]:
    """Resident bytes of the service, on average over the second and over the last third."""
    third = scale.seconds / 3
    return course.resident_mean(third, 2 * third), course.resident_mean(2 * third, scale.seconds)


def _report(scale: Scale, course: Course, clients: list[Client], times: Latencies, daemon: Daemon) -> None:
    second, last = _thirds(course, scale)
    injected = (daemon.file_cloud / FAILURES).stat().st_size
    lines = [
        f"{scale.exports} exports of {scale.disks} disks by {scale.clients} clients for {scale.seconds:.0f} s: "
        f"{sum(client.made for client in clients)} exports made, {course.kills} servers killed, "
        f"{course.restarts} restarts of the service, {injected} calls of the cloud failed",
        f"resident memory: {second / MiB:.0f} MiB in the second third, {last / MiB:.0f} MiB in the last",
        f"{'request':<12}{'count':>9}{'median ms':>11}{'p99 ms':>11}{'longest ms':>11}",
        *map(str, times.summaries()),
    ]
    sys.stderr.write("\n" + "\n".join(lines) + "\n")
