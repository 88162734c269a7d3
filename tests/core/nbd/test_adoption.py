"""Servers outlive a daemon that is killed, and the next one takes them over: these, and no other process."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cloudmanager.confined import Process
from cloudmanager.core.model import Access
from cloudmanager.core.nbd import adoption, process
from cloudmanager.core.nbd.engines import QEMU_NBD
from cloudmanager.core.records import ServerProcess
from tests.checkout import ROOT
from tests.core.nbd import daemon
from tests.core.nbd.exporter import WAIT_SECONDS, Exporter, MiB, Served, children, device, has_ended, wait_gone

SANDBOXES = pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@dataclass
class Daemon:
    """A daemon in a process of its own."""

    run: subprocess.Popen[str]
    image: Path

    def next_line(self) -> dict[str, object]:
        assert self.run.stdout
        return dict(json.loads(self.run.stdout.readline()))

    def next_export(self) -> Served:
        return daemon.served(self.image, self.next_line(), self.next_line())

    def kill(self) -> None:
        self.run.kill()
        self.run.wait(WAIT_SECONDS)


@pytest.fixture
def start_daemon(tmp_path: Path, raw: Path) -> Iterator[Callable[..., Daemon]]:
    with ExitStack() as running:

        def start(number: int = 1, **settings: object) -> Daemon:
            arguments = [sys.executable, "-m", "tests.core.nbd.daemon", tmp_path / "exports", raw, str(number)]
            run = running.enter_context(
                subprocess.Popen(
                    [*map(str, arguments), json.dumps(settings)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            running.callback(run.kill)
            return Daemon(run, raw)

        yield start


@SANDBOXES
def test_a_server_is_adopted_with_its_client_and_its_listener(
    make_exporter: Callable[..., Exporter], start_daemon: Callable[..., Daemon], sandbox: str, raw: Path
) -> None:
    daemon_ = start_daemon(sandbox=sandbox)
    served = daemon_.next_export()
    with served.connect() as client:
        daemon_.kill()
        exporter = make_exporter(sandbox=sandbox)
        assert exporter.adopt(served, served.process) == served.process
        assert exporter.servers.is_alive(served.id)
        assert exporter.servers.reserve(served.id, served.port) == served.port
        assert exporter.start(served.spec).process == served.process
        assert client.read(0, 512) == raw.read_bytes()[:512]
        assert exporter.servers.client_count(served.id) == 1
        exporter.servers.refuse_clients(served.id)
        with pytest.raises(ConnectionRefusedError):
            served.connect()
        exporter.servers.stop(served.id)
        assert client.is_cut()
    assert has_ended(served.process)
    assert not (exporter.directory / served.id).exists()


@SANDBOXES
def test_the_death_of_an_adopted_server_is_told_and_it_is_replaced_in_its_place(
    make_exporter: Callable[..., Exporter], start_daemon: Callable[..., Daemon], sandbox: str, raw: Path
) -> None:
    daemon_ = start_daemon(sandbox=sandbox)
    served = daemon_.next_export()
    daemon_.kill()
    exporter = make_exporter(sandbox=sandbox)
    exporter.adopt(served, served.process)
    os.kill(served.pid, signal.SIGKILL)
    assert exporter.exited() == served.id
    with served.queue_up() as queued:  # the listener was taken back
        exporter.start(served.spec)
        queued.go()
        assert queued.read(0, 512) == raw.read_bytes()[:512]


def test_a_server_whose_process_was_never_stored_is_found_by_its_name(
    make_exporter: Callable[..., Exporter], start_daemon: Callable[..., Daemon]
) -> None:
    daemon_ = start_daemon()
    served = daemon_.next_export()
    daemon_.kill()
    assert make_exporter().adopt(served, None) == served.process


@SANDBOXES
@pytest.mark.parametrize("access", Access)
def test_a_server_that_was_found_by_its_name_proves_itself_and_goes_on(
    make_exporter: Callable[..., Exporter], sandbox: str, access: Access, raw: Path
) -> None:
    earlier = make_exporter(sandbox=sandbox)
    served = earlier.export(device(raw), access)
    earlier.end()
    exporter = make_exporter(sandbox=sandbox)
    assert exporter.adopt(served, None) == served.process
    assert exporter.start(served.spec).process == served.process


def test_a_server_that_was_found_and_serves_another_file_is_replaced(
    make_exporter: Callable[..., Exporter], raw: Path
) -> None:
    earlier = make_exporter()
    served = earlier.export(device(raw))
    raw.rename(raw.with_suffix(".old"))
    raw.write_bytes(b"\x29" * MiB)
    earlier.end()
    exporter = make_exporter()
    assert exporter.adopt(served, None) == served.process
    replaced = exporter.start(replace(served.spec, device=device(raw)))
    assert replaced.process != served.process
    assert has_ended(served.process)
    with replaced.connect() as client:
        assert client.read(0, 512) == b"\x29" * 512


def test_a_fully_occupied_server_is_adopted(
    make_exporter: Callable[..., Exporter], start_daemon: Callable[..., Daemon]
) -> None:
    daemon_ = start_daemon(connections=1)
    served = daemon_.next_export()
    with served.connect():
        daemon_.kill()
        assert make_exporter(connections=1).adopt(served, served.process) == served.process


def test_a_daemon_that_replaces_itself_reaps_what_it_adopts(make_exporter: Callable[..., Exporter], raw: Path) -> None:
    """As when it executes its next version: the children stay."""
    before = set(children(os.getpid()))
    first = make_exporter()
    served = first.export(device(raw))
    first.end()
    second = make_exporter()
    assert second.adopt(served, served.process) == served.process
    second.servers.stop(served.id)
    assert set(children(os.getpid())) <= before


def test_nothing_is_adopted_where_nothing_is_alive(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    exporter.servers.stop(served.id)
    assert exporter.adopt(served, served.process) is None
    assert exporter.adopt(served, None) is None
    assert exporter.servers.adopt("never-started", "name", None, None) is None


@pytest.mark.parametrize("field", ["boot_id", "start_time", "listener_inode"])
def test_a_record_names_its_process_only_when_everything_fits(exporter: Exporter, raw: Path, field: str) -> None:
    served = exporter.export(device(raw))
    values: dict[str, Any] = {
        "boot_id": "another boot",
        "start_time": served.process.start_time + 1,
        "listener_inode": 1,
    }
    found = adoption.by_record(served.process, served.spec.name)
    assert found is not None
    found.close()
    assert adoption.by_record(replace(served.process, **{field: values[field]}), served.spec.name) is None
    assert adoption.by_record(served.process, "another name") is None


def test_a_process_that_was_given_a_dead_servers_number_is_left_alone(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    exporter.servers.stop(served.id)
    with subprocess.Popen(["sleep", "1000"]) as innocent:
        stored = ServerProcess(
            process.boot_id(), innocent.pid, process.start_time(innocent.pid), served.process.listener_inode
        )
        assert exporter.adopt(served, stored) is None
        assert innocent.poll() is None
        innocent.kill()


@contextmanager
def pretender(program: str, name: str, user: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like a server, or like one that is about to be."""
    arguments = [program, "-c", "print(flush=True); import time; time.sleep(1000)", QEMU_NBD.name_option(name)]
    with subprocess.Popen(arguments, executable="/usr/bin/python3", stdout=subprocess.PIPE, user=user) as run:
        assert run.stdout
        run.stdout.readline()
        try:
            yield run
        finally:
            run.kill()


@as_root
def test_a_process_of_another_user_that_carries_the_name_is_left_alone(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    exporter.servers.stop(served.id)
    with pretender("qemu-nbd", served.spec.name, user=pwd.getpwnam("nobody").pw_uid) as run:
        assert exporter.adopt(served, None) is None
        assert run.poll() is None


def test_an_unrelated_program_that_mentions_the_name_is_left_alone(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    exporter.servers.stop(served.id)
    with pretender("pgrep", served.spec.name) as run:
        assert exporter.adopt(served, None) is None
        assert run.poll() is None


def test_a_start_that_never_came_to_be_is_ended(exporter: Exporter, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "_SETTLE_SECONDS", 0.1)
    served = exporter.export(device(raw))
    exporter.servers.stop(served.id)
    with pretender("bwrap", served.spec.name) as run:
        assert exporter.adopt(served, None) is None
        assert run.wait(WAIT_SECONDS) == -signal.SIGKILL


LATE = """
import os, sys, time
time.sleep(0.3)
os.execv(sys.executable, ["qemu-nbd", "-c", "import time; time.sleep(1000)", sys.argv[1]])
"""


def test_a_start_that_carries_no_name_yet_is_waited_for(exporter: Exporter) -> None:
    """A daemon was killed between the making of a child and the program that the child was to execute."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        late = [sys.executable, "-c", LATE, QEMU_NBD.name_option("late")]
        with subprocess.Popen(late, pass_fds=[listener.fileno()]) as child:
            adopted = exporter.servers.adopt("late", "late", port, None)
            assert adopted is not None
            assert adopted.pid == child.pid
            exporter.servers.stop("late")


@SANDBOXES
@pytest.mark.parametrize("lines", [1, 2, 7, 12])
def test_wherever_a_daemon_is_killed_its_servers_are_found(
    make_exporter: Callable[..., Exporter], start_daemon: Callable[..., Daemon], sandbox: str, lines: int, raw: Path
) -> None:
    """After an odd number of lines it dies in the middle of a start."""
    daemon_ = start_daemon(number=20, sandbox=sandbox)
    output = [daemon_.next_line() for _ in range(lines)]
    daemon_.kill()
    assert daemon_.run.stdout
    output += [json.loads(line) for line in daemon_.run.stdout.read().splitlines()]
    exports = [daemon.served(raw, announced, None) for announced in output if "name" in announced]
    exporter = make_exporter(sandbox=sandbox)
    adopted = [exporter.adopt(export, None) for export in exports]
    assert all(adopted[:-1])
    for export in exports:
        exporter.servers.stop(export.id)
        for pid in carriers(export.spec.name):
            wait_gone(pid)  # the sandbox of another daemon's server ends a moment after it


def test_a_listener_that_may_not_be_taken_back_does_not_prevent_adoption(
    exporter: Exporter, make_exporter: Callable[..., Exporter], raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Process, number: int) -> int:
        raise PermissionError(number)

    served = exporter.export(device(raw))
    exporter.end()
    monkeypatch.setattr(Process, "take_descriptor", refused)
    successor = make_exporter()
    assert successor.adopt(served, served.process) == served.process
    assert successor.servers.reserve(served.id, served.port) == served.port
    successor.servers.refuse_clients(served.id)
    os.kill(served.pid, signal.SIGKILL)
    assert successor.exited() == served.id
    with successor.start(served.spec).connect() as client:
        assert len(client.read(0, 512)) == 512


def carriers(name: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if name.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found
