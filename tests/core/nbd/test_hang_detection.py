"""A server that was stopped, or that hangs, is told from one that works, also from one whose disk is slow."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudmanager.confined import Launched, Process
from cloudmanager.core.model import Access
from cloudmanager.core.nbd import hang_detection
from cloudmanager.core.nbd.adoption import server_process
from cloudmanager.core.nbd.hang_detection import HANGS_SECONDS, Hang, HangDetector, ServerSample
from cloudmanager.core.nbd.running import RunningServer
from tests.core.nbd.client import READ
from tests.core.nbd.exporter import Exporter, MiB, connected, device, has_ended, read_back, status
from tests.loop_devices import loop_device
from tests.waiting import eventually

LATER = 100.0


def test_a_server_that_works_or_has_nothing_to_do_is_not_spoken_of(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    for _ in range(3):
        assert exporter.servers.check_responsive(served.id, has_device=True) is None
        with served.connect() as client:
            client.read(0, MiB)
            assert exporter.servers.check_responsive(served.id, has_device=True) is None


@pytest.mark.parametrize("access", Access)
def test_a_server_that_was_stopped_goes_on_and_its_client_with_it(
    exporter: Exporter, raw: Path, access: Access
) -> None:
    served = exporter.export(device(raw), access)
    with served.connect() as client:
        _stop(served.pid)
        arguments = exporter.servers.check_responsive(served.id, has_device=False)
        assert arguments is not None
        assert f"process {served.pid}" in arguments
        assert client.read(0, MiB) == raw.read_bytes()[:MiB]
    assert exporter.servers.check_responsive(served.id, has_device=False) is None


def test_a_server_that_was_adopted_and_stopped_goes_on_too(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    _stop(served.pid)
    successor = exporter.succeeded()
    try:
        assert successor.adopt(served, served.process)
        assert successor.servers.check_responsive(served.id, has_device=False)
        assert read_back(served.uri, raw.with_suffix(".copy")) == raw.read_bytes()
    finally:
        successor.stop_all()


def test_a_server_that_was_stopped_before_it_could_prove_itself_does_so(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    _stop(served.pid)
    successor = exporter.succeeded()
    try:
        assert successor.adopt(served, None)
        begun = time.monotonic()
        assert successor.start(served.spec).pid == served.pid
        assert time.monotonic() - begun < 20  # it would be replaced after 30 s
    finally:
        successor.stop_all()


def test_a_stopped_server_that_is_ended_writes_first_and_needs_no_killing(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw), Access.READ_WRITE)
    with served.connect() as client:
        client.write(0, bytes(MiB))
        _stop(served.pid)
        begun = time.monotonic()
        exporter.servers.stop(served.id)
    assert time.monotonic() - begun < 8  # it would be killed after 10 s
    assert raw.read_bytes()[:MiB] == bytes(MiB)


def test_a_server_whose_places_are_all_taken_does_not_hang(
    make_exporter: Callable[..., Exporter], raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = make_exporter(connections=1, engine="qemu-nbd")
    served = exporter.export(device(raw))
    running = exporter.servers._running(served.id)
    listener = exporter.servers._entries[served.id].listener
    assert running
    assert listener
    with served.connect(), served.queue_up():
        eventually(lambda: hang_detection.queue_length(listener))
        assert running.detect_hang(listener) is None
        assert running._detector._first is None
        monkeypatch.setattr(running, "connection_slots", lambda: 2)
        assert running.detect_hang(listener) is None
        assert running._detector._first is not None  # else the look above would prove nothing


def test_the_slots_are_those_that_a_server_was_started_with(make_exporter: Callable[..., Exporter], raw: Path) -> None:
    """An earlier service had other settings; its clients that wait do not speak against its server."""
    earlier = make_exporter(connections=1, engine="qemu-nbd")
    served = earlier.export(device(raw))
    earlier.end()
    exporter = make_exporter(connections=32)
    exporter.adopt(served, served.process)
    listener = exporter.servers._entries[served.id].listener
    running = exporter.servers._running(served.id)
    assert listener
    assert running
    with served.connect(), served.queue_up():
        eventually(lambda: hang_detection.queue_length(listener))
        assert exporter.servers.check_responsive(served.id, has_device=True) is None
        assert running._detector._first is None


@pytest.mark.skipif(not shutil.which("nbdkit"), reason="needs nbdkit")
def test_a_client_that_waits_for_nbdkit_is_a_sign_that_it_hangs_though_all_slots_are_taken(
    make_exporter: Callable[..., Exporter], raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts everybody, and turns away who is too many."""
    exporter = make_exporter(connections=2, engine="nbdkit")
    served = exporter.export(device(raw))
    running = exporter.servers._running(served.id)
    listener = exporter.servers._entries[served.id].listener
    assert running
    assert listener
    monkeypatch.setattr(hang_detection, "STOPPED", "none")  # it shall be as one that waits for something else
    with connected(served), connected(served), _stopped(served.pid), served.queue_up():
        eventually(lambda: hang_detection.queue_length(listener))
        assert running.detect_hang(listener) is None
        assert running._detector._first is not None


def test_a_server_hangs_that_does_not_run_while_a_client_waits(monkeypatch: pytest.MonkeyPatch, raw: Path) -> None:
    monkeypatch.setattr(hang_detection, "HANGS_SECONDS", 0.01)
    with _hanging() as (running, listener):
        assert [running.detect_hang(listener) for _ in range(3)] == [None] * 3
        with socket.create_connection(listener.getsockname()):
            eventually(lambda: hang_detection.queue_length(listener))
            found = eventually(lambda: running.detect_hang(listener))
            assert (found.is_asleep, found.is_stopped) == (True, False)
        os.kill(running.record.pid, signal.SIGSTOP)
        eventually(lambda: (reported := running.detect_hang(listener)) and reported.is_stopped)


@pytest.mark.parametrize(("has_device", "is_replaced"), [(True, True), (False, False)])
def test_what_hangs_is_killed_only_where_no_disk_can_be_what_it_waits_for(
    make_exporter: Callable[..., Exporter],
    raw: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_device: bool,
    is_replaced: bool,
) -> None:
    monkeypatch.setattr(hang_detection, "HANGS_SECONDS", 0.01)
    exporter = make_exporter(start_timeout_seconds=1)
    served = exporter.export(device(raw))
    place = exporter.servers._entries[served.id]
    with _hanging() as (running, listener), socket.create_connection(listener.getsockname()):
        with monkeypatch.context() as patched:
            patched.setattr(place, "running", running)
            patched.setattr(place, "listener", listener)
            arguments = eventually(lambda: exporter.servers.check_responsive(served.id, has_device=has_device))
            assert "answers no client" in arguments
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline and running.is_alive:
                exporter.servers.check_responsive(served.id, has_device=has_device)
        assert has_ended(running.record) is is_replaced


QUIET = ServerSample("S", 7, 0, 0.0)
WAITED_FOR = ServerSample("S", 7, 1, 0.0)


@pytest.mark.parametrize(
    ("first", "second", "hangs"),
    [
        (WAITED_FOR, ServerSample("S", 7, 1, LATER), True),
        (WAITED_FOR, ServerSample("D", 7, 2, LATER), True),
        (WAITED_FOR, ServerSample("S", 7, 1, HANGS_SECONDS / 2), False),
        (WAITED_FOR, ServerSample("S", 8, 1, LATER), False),  # it has run: others are in the queue now
        (WAITED_FOR, ServerSample("S", 7, 0, LATER), False),
        (QUIET, ServerSample("S", 7, 1, LATER), False),  # the client may have come just now
    ],
)
def test_a_server_hangs_from_the_first_look_at_which_somebody_waited(
    first: ServerSample, second: ServerSample, hangs: bool
) -> None:
    hearing = HangDetector()
    assert hearing.judge(first) is None
    assert hearing.judge(second) == (Hang(second.state, LATER) if hangs else None)


@contextmanager
def _hanging() -> Iterator[tuple[RunningServer, socket.socket]]:
    """A process that has the listener and never looks at it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asleep = subprocess.Popen(["sleep", "infinity"], pass_fds=[listener.fileno()])
        server = Process(asleep.pid)
        try:
            inode = os.fstat(listener.fileno()).st_ino
            eventually(lambda: status(asleep.pid, "Name") == "sleep" and status(asleep.pid, "State")[0] == "S")
            yield RunningServer(server_process(server, inode), Launched(server), None, ()), listener
        finally:
            asleep.kill()
            asleep.wait()
            server.close()


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: status(pid, "State").startswith("T"))


@pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="needs /dev/fuse")
@pytest.mark.parametrize("kind", ["file", "device"])
def test_a_server_whose_disk_does_not_answer_greets_and_is_left_alone(
    make_exporter: Callable[..., Exporter], raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(hang_detection, "HANGS_SECONDS", 0.01)
    exporter = make_exporter(engine="qemu-nbd")
    storage = exporter.export(device(raw))
    with _mounted(storage.uri, tmp_path) as file, _disk_of(kind, file) as disk:
        served = exporter.export(device(disk))
        try:
            with served.connect() as waiting, _stopped(storage.pid):
                waiting._request(READ, MiB, MiB)
                for _ in range(3):
                    with served.connect():
                        assert exporter.servers.check_responsive(served.id, has_device=True) is None
                os.kill(storage.pid, signal.SIGCONT)
                waiting._answer()
                assert waiting._receive(MiB) == raw.read_bytes()[MiB : 2 * MiB]
        finally:
            exporter.servers.stop(served.id)


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    _stop(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def _mounted(uri: str, directory: Path) -> Iterator[Path]:
    """A file whose bytes come over the network."""
    file = directory / "storage"
    file.touch()
    mounting = subprocess.Popen(["nbdfuse", file, uri])
    try:
        eventually(lambda: file.stat().st_size)
        yield file
    finally:
        subprocess.run(["fusermount3", "-u", file], check=True)
        mounting.wait()


@contextmanager
def _disk_of(kind: str, file: Path) -> Iterator[Path]:
    if kind == "file":
        yield file
        return
    with loop_device(file) as device:
        yield device
