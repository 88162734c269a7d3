"""A qemu-nbd that dies is noticed at once and can be replaced in its place."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.core.model import Access
from tests.core.nbd.exporter import WAIT_SECONDS, Exporter, MiB, Served, children, device, has_ended, is_gone, wait_gone

GiB = 1024**3
SANDBOXES = pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])


def killed(exporter: Exporter, served: Served) -> None:
    os.kill(served.pid, signal.SIGKILL)
    assert exporter.exited() == served.id


@SANDBOXES
def test_a_death_is_told_and_leaves_no_zombie(make_exporter: Callable[..., Exporter], sandbox: str, raw: Path) -> None:
    exporter = make_exporter(sandbox=sandbox)
    before = set(children(os.getpid()))
    served = exporter.export(device(raw))
    assert exporter.servers.is_alive(served.id)
    killed(exporter, served)
    assert not exporter.servers.is_alive(served.id)
    assert set(children(os.getpid())) <= before


def test_the_death_of_the_sandbox_is_not_the_death_of_the_server(exporter: Exporter, raw: Path) -> None:
    before = set(children(os.getpid()))
    served = exporter.export(device(raw))
    sandbox = (set(children(os.getpid())) - before).pop()
    os.kill(sandbox, signal.SIGKILL)
    wait_gone(sandbox)
    with served.connect() as client:
        assert client.read(0, 512) == raw.read_bytes()[:512]
    exporter.servers.stop(served.id)
    assert has_ended(served.process)  # the init process, now its parent, may not have reaped it yet
    assert exporter.exits.empty()


@SANDBOXES
def test_the_next_server_has_the_same_port_though_a_client_lingers(
    make_exporter: Callable[..., Exporter], sandbox: str, raw: Path
) -> None:
    exporter = make_exporter(sandbox=sandbox)
    served = exporter.export(device(raw))
    with served.connect() as lingering:
        killed(exporter, served)
        again = exporter.start(served.spec)
        assert (again.port, again.uri) == (served.port, served.uri)
        assert again.pid != served.pid
        with again.connect() as client:
            assert client.read(0, 512) == raw.read_bytes()[:512]
        assert lingering.is_cut()


def test_a_client_in_the_queue_is_served_by_the_next_server(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    killed(exporter, served)
    with served.queue_up() as queued:
        exporter.start(served.spec)
        queued.go()
        assert queued.read(0, 512) == raw.read_bytes()[:512]


def test_a_copy_that_is_under_way_is_cut(exporter: Exporter, tmp_path: Path) -> None:
    disk = tmp_path / "big.raw"
    disk.touch()
    os.truncate(disk, GiB)
    served = exporter.export(device(disk))
    with subprocess.Popen(["nbdcopy", served.uri, "-"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as copy:
        assert copy.stdout
        copied = len(copy.stdout.read(MiB))
        killed(exporter, served)
        while part := copy.stdout.read(MiB):
            copied += len(part)
    assert copy.returncode != 0
    assert MiB <= copied < GiB


def test_a_replacement_is_ready_though_waiting_clients_take_every_place(
    make_exporter: Callable[..., Exporter], raw: Path
) -> None:
    """Our own handshake would wait until one of them leaves."""
    exporter = make_exporter(connections=2, start_timeout_seconds=10)
    served = exporter.export(device(raw))
    killed(exporter, served)
    with served.queue_up() as one, served.queue_up() as other:
        again = exporter.start(served.spec)
        assert exporter.servers.client_count(served.id) == 2
        one.go()
        other.go()
    assert exporter.servers.is_alive(again.id)


def test_a_server_can_be_replaced_when_its_listener_could_not_be_kept(
    make_exporter: Callable[..., Exporter], raw: Path
) -> None:
    """SO_REUSEADDR lets the port be bound while a connection to the dead server lingers."""
    exporter = make_exporter()
    before = set(children(os.getpid()))
    served = exporter.export(device(raw))
    launched = set(children(os.getpid())) - before
    with served.connect():
        exporter.end()
        os.kill(served.pid, signal.SIGKILL)
        for pid in launched:
            os.waitpid(pid, 0)
        successor = exporter.succeeded()
        try:
            assert successor.servers.reserve(served.id, served.port) == served.port
            with successor.start(served.spec).connect() as client:
                assert len(client.read(0, 512)) == 512
        finally:
            successor.stop_all()


def test_what_a_server_said_last_is_logged(exporter: Exporter, raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    served = exporter.export(device(raw))
    with served.queue_up() as malformed:
        malformed.socket.recv(18)
        malformed.socket.sendall(b"\xff" * 64)
        assert malformed.is_cut()
    killed(exporter, served)
    assert served.id in caplog.text
    assert re.search("(qemu-nbd|nbdkit): ", caplog.text)


def test_a_stopped_server_is_not_said_to_have_died(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    exporter.servers.stop(served.id)
    other = exporter.export(device(raw))
    killed(exporter, other)
    assert exporter.exits.empty()


@SANDBOXES
def test_a_stopped_server_is_gone_with_its_clients(
    make_exporter: Callable[..., Exporter], sandbox: str, raw: Path
) -> None:
    exporter = make_exporter(sandbox=sandbox)
    served = exporter.export(device(raw))
    with served.connect() as client:
        exporter.servers.stop(served.id)
        assert client.is_cut()
    assert is_gone(served.process)
    assert not exporter.servers.is_alive(served.id)
    with pytest.raises(ConnectionRefusedError):
        served.connect()


def test_a_server_that_ignores_the_signal_is_killed(
    exporter: Exporter, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudmanager.core.nbd.servers._STOP_SECONDS", 0.05)
    served = exporter.export(device(raw))
    os.kill(served.pid, signal.SIGSTOP)
    exporter.servers.stop(served.id)
    assert is_gone(served.process)


def test_stopping_is_idempotent_in_every_state(exporter: Exporter, raw: Path) -> None:
    exporter.servers.stop("never-heard-of")
    exporter.servers.reserve("only-reserved")
    exporter.servers.stop("only-reserved")
    served = exporter.export(device(raw))
    killed(exporter, served)
    exporter.servers.stop(served.id)
    exporter.servers.stop(served.id)


def test_a_writer_that_is_stopped_has_written(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw), Access.READ_WRITE)
    with served.connect() as client:
        client.write(0, b"last words")
    exporter.servers.stop(served.id)
    assert raw.read_bytes()[:10] == b"last words"


def test_a_callback_that_fails_does_not_end_the_watch(
    exporter: Exporter, raw: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    def fail(export_id: str) -> None:
        failed.set()
        raise RuntimeError(export_id)

    monkeypatch.setattr(exporter.servers, "_on_exit", fail)
    os.kill(exporter.export(device(raw)).pid, signal.SIGKILL)
    assert failed.wait(WAIT_SECONDS)
    monkeypatch.setattr(exporter.servers, "_on_exit", exporter.exits.put)
    killed(exporter, exporter.export(device(raw)))
    assert "was not handled" in caplog.text
