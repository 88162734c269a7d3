"""Nothing is left behind, whatever happens and however often."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cloudmanager.core.errors import CloudManagerError, ServerFailed
from cloudmanager.core.model import Access
from cloudmanager.core.nbd.process import all_pids, command_line
from tests.core.nbd.exporter import Exporter, MiB, Served, children, device, is_gone

CYCLES = 200


def belongings(exporter: Exporter) -> tuple[int, set[int], list[str], int]:
    """Descriptors, children (zombies too), private directories, threads."""
    directories = sorted(path.name for path in exporter.directory.glob("*"))
    return descriptor_count(), set(children(os.getpid())), directories, threading.active_count()


def descriptor_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def servers_of(image: Path) -> list[int]:
    found = []
    for pid in all_pids():
        try:
            if any(str(image) in word for word in command_line(pid)):
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("sandbox", ["bubblewrap", pytest.param("none", marks=pytest.mark.slow)])
def test_many_exports_leave_nothing_behind(make_exporter: Callable[..., Exporter], sandbox: str, raw: Path) -> None:
    exporter = make_exporter(sandbox=sandbox)
    exporter.servers.stop(exporter.export(device(raw), Access.SCRATCH).id)
    before = belongings(exporter)

    def cycle(number: int) -> Served:
        served = exporter.export(device(raw), list(Access)[number % 2])
        exporter.servers.stop(served.id)
        return served

    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(cycle, range(CYCLES)))
    assert belongings(exporter) == before
    assert all(is_gone(served.process) for served in ended)
    assert not servers_of(raw)


@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
@pytest.mark.parametrize("access", list(Access))
def test_starts_that_fail_leave_nothing_behind(
    make_exporter: Callable[..., Exporter], sandbox: str, access: Access, raw: Path
) -> None:
    exporter = make_exporter(sandbox=sandbox)
    before = belongings(exporter)
    for _ in range(10):
        with pytest.raises(ServerFailed):
            exporter.export(device(raw, "qcow2"), access)
    for export_id in list(exporter.directory.iterdir()):
        exporter.servers.stop(export_id.name)
    assert belongings(exporter) == before
    assert not servers_of(raw)


@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
@pytest.mark.parametrize("seconds", [0.00001, 0.0005, 0.001])
def test_a_start_whose_time_is_over_leaves_nothing_behind(
    make_exporter: Callable[..., Exporter], sandbox: str, seconds: float, raw: Path
) -> None:
    """Whenever it is over: before there is a process, or while it starts. What has answered by then is taken."""
    exporter = make_exporter(sandbox=sandbox, start_timeout_seconds=seconds)
    try:
        exporter.servers.stop(exporter.export(device(raw)).id)
    except ServerFailed as error:
        assert_says_that_it_was_late(error)
    assert not servers_of(raw)


def test_a_server_that_does_not_answer_in_time_is_ended(
    make_exporter: Callable[..., Exporter], tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = tmp_path / "programs" / "qemu-nbd"
    silent.parent.mkdir()
    silent.write_text("#!/bin/sh\nexec sleep 600\n")
    silent.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{silent.parent}:{os.environ['PATH']}")
    before = set(children(os.getpid()))
    with pytest.raises(ServerFailed) as caught:
        make_exporter(sandbox="none", start_timeout_seconds=0.2).export(device(raw))
    assert_says_that_it_was_late(caught.value)
    assert set(children(os.getpid())) == before


def assert_says_that_it_was_late(error: ServerFailed) -> None:
    assert "did not answer within" in error.detail
    assert "start_timeout_seconds" in error.detail
    assert error.retriable


def test_deaths_and_replacements_leave_nothing_behind(exporter: Exporter, raw: Path) -> None:
    before = belongings(exporter)
    served = exporter.export(device(raw))
    for _ in range(20):
        os.kill(served.pid, 9)
        assert exporter.exited() == served.id
        served = exporter.start(served.spec)
    exporter.servers.stop(served.id)
    assert belongings(exporter) == before


def test_servers_go_on_when_the_daemon_ends_and_leave_it_nothing(
    make_exporter: Callable[..., Exporter], raw: Path
) -> None:
    descriptors, threads = descriptor_count(), threading.active_count()
    exporter = make_exporter()
    served = exporter.export(device(raw))
    exporter.end()
    assert (descriptor_count(), threading.active_count()) == (descriptors, threads)
    with served.connect() as client:
        assert client.read(0, 512) == raw.read_bytes()[:512]
    successor = make_exporter()
    successor.adopt(served, served.process)


def test_many_threads_start_servers_at_once(exporter: Exporter, raw: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        served = list(pool.map(lambda _: exporter.export(device(raw)), range(48)))
    assert len({one.pid for one in served}) == len({one.port for one in served}) == 48
    for one in served:
        with one.connect() as client:
            assert client.read(MiB, 512) == raw.read_bytes()[MiB : MiB + 512]


def test_starting_and_stopping_one_export_at_once_ends_stopped_or_served(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    with ThreadPoolExecutor(8) as pool:
        for number in range(40):
            if number % 2:
                pool.submit(exporter.servers.stop, served.id)
            else:
                pool.submit(exporter.start, served.spec)
    exporter.servers.stop(served.id)
    assert not servers_of(raw)
    assert not any(exporter.directory.iterdir())


@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
def test_malformed_clients_neither_hang_the_server_nor_fill_anything(
    make_exporter: Callable[..., Exporter], sandbox: str, raw: Path
) -> None:
    """Each makes qemu-nbd print a line; a pipe that nobody reads would have been full after 833."""
    served = make_exporter(sandbox=sandbox).export(device(raw))
    for _ in range(1500):
        with served.queue_up() as malformed:
            malformed.socket.recv(18)
            malformed.socket.sendall(b"\xff" * 64)
            assert malformed.is_cut()
    with served.connect() as client:
        assert client.read(0, 512) == raw.read_bytes()[:512]
    assert Path(f"/proc/{served.pid}/fd/2").stat().st_size == 64 * 1024


def test_a_full_disk_is_an_error_that_can_be_tried_again(raw: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounts a small file system")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", small], check=True)
    try:
        exporter = Exporter(small)
        with pytest.raises(ServerFailed, match=r"No space left on device\. Make room there") as caught:
            exporter.export(device(raw), Access.SCRATCH)
        assert caught.value.retriable
        exporter.stop_all()
    finally:
        subprocess.run(["umount", small], check=True)
        shutil.rmtree(small)


def test_every_failure_is_one_of_ours(exporter: Exporter, raw: Path) -> None:
    """Nothing but a CloudManagerError leaves, whatever the image claims to be."""
    for name in ("dmg", "parallels", "qcow2", "vdi", "vhdx", "vmdk", "vpc"):
        with pytest.raises(CloudManagerError) as caught:
            exporter.export(device(raw, name))
        assert str(raw) in caught.value.detail


@pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])
def test_running_out_of_descriptors_is_survived(
    make_exporter: Callable[..., Exporter], sandbox: str, raw: Path
) -> None:
    exporter = make_exporter(sandbox=sandbox)
    exporter.servers.stop(exporter.export(device(raw)).id)
    before = belongings(exporter)
    outcomes = [export_within(exporter, raw, spare) for spare in range(1, 16)]
    assert outcomes[0] is False
    assert outcomes[-1] is True
    assert belongings(exporter) == before
    assert not servers_of(raw)


def export_within(exporter: Exporter, image: Path, spare: int) -> bool:
    """Whether an export succeeds with so many descriptors to spare; it is stopped again."""
    with descriptors_to_spare(spare):
        try:
            exporter.export(device(image))
        except CloudManagerError as error:
            if not error.retriable:  # it would fail the export for good
                raise
            return False
        finally:
            exporter.stop_each()
    return True


@contextmanager
def descriptors_to_spare(number: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    with ExitStack() as undo:
        last = -1
        while last < highest:  # the holes between open ones count too
            last = os.open("/dev/null", os.O_RDONLY)
            undo.callback(os.close, last)
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1 + number, limits[1]))
        undo.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        yield
