"""Workers that are killed in the middle of their work, and those that are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudmanager.client import access_methods
from cloudmanager.client.access_methods import record
from cloudmanager.client.access_methods.errors import AccessFailed, NotUndone
from cloudmanager.client.access_methods.record import Record, recorded
from cloudmanager.client.access_methods.steps import MadeFile, MountPoint
from cloudmanager.client.address import NbdAddress
from cloudmanager.linux.mounts import mount_points_below
from tests.checkout import ROOT
from tests.client.access_methods import disks
from tests.client.access_methods.serving import Serving

WORKER = """
import sys
from cloudmanager.client import access_methods
from cloudmanager.client.address import NbdAddress
uri, where, stub = sys.argv[1:]
address = NbdAddress(uri)
with access_methods.stub(address, stub), access_methods.file(address), access_methods.mount(address, where, part="1"):
    print("at work", flush=True)
    sys.stdin.read()
"""


class Worker:
    """A process that has all that a crash can leave behind."""

    def __init__(self, address: NbdAddress, directory: Path) -> None:
        self.where, self.stub = directory / "mnt", directory / "disk.qcow2"
        self.where.mkdir()
        command = [sys.executable, "-c", WORKER, address.uri, str(self.where), str(self.stub)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"at work\n"

    def is_at_work(self) -> bool:
        return self.stub.exists() and (self.where / "greeting").exists()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(20)

    def interrupt(self) -> None:
        """As Ctrl-C does: everything in the terminal's foreground gets the signal."""
        os.killpg(self._process.pid, signal.SIGINT)

    def finish(self) -> int:
        self._process.communicate(timeout=60)
        return self._process.returncode


@pytest.fixture
def start_worker(serving: Serving, evidence: Path, tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    workers: list[Worker] = []

    def start() -> Worker:
        directory = tmp_path / f"worker-{len(workers)}"
        directory.mkdir()
        workers.append(Worker(serving.address(evidence), directory))
        return workers[-1]

    yield start
    for worker in workers:
        worker.finish()
    access_methods.cleanup()


def test_what_a_killed_worker_left_is_undone_in_reverse(
    start_worker: Callable[[], Worker], run_directory: Path
) -> None:
    worker = start_worker()
    worker.kill()
    assert worker.is_at_work()
    outcomes = access_methods.cleanup()
    assert all(outcome.is_undone for outcome in outcomes)
    assert not worker.is_at_work()
    assert mount_points_below(run_directory) == []
    assert list(run_directory.iterdir()) == []
    mounts = [outcome.what for outcome in outcomes if "mounted at" in outcome.what]
    assert mounts[0].endswith("/mnt")
    assert mounts[1].endswith("/files")


def test_the_processes_of_a_killed_worker_are_gone_after_the_cleanup(
    start_worker: Callable[[], Worker], run_directory: Path
) -> None:
    start_worker().kill()
    assert processes_with(run_directory)
    access_methods.cleanup()
    assert not processes_with(run_directory)


def test_no_loop_device_is_left_after_the_cleanup(start_worker: Callable[[], Worker], run_directory: Path) -> None:
    start_worker().kill()
    assert str(run_directory) in disks.run("losetup", "--list", "--output", "BACK-FILE")
    access_methods.cleanup()
    assert str(run_directory) not in disks.run("losetup", "--list", "--output", "BACK-FILE")


def test_a_worker_that_lives_is_left_alone(start_worker: Callable[[], Worker]) -> None:
    dead, alive = start_worker(), start_worker()
    dead.kill()
    assert access_methods.cleanup()
    assert alive.is_at_work()
    assert not dead.is_at_work()
    assert alive.finish() == 0


def test_a_second_cleanup_finds_nothing(start_worker: Callable[[], Worker]) -> None:
    start_worker().kill()
    assert access_methods.cleanup()
    assert access_methods.cleanup() == []


def test_what_is_there_of_our_own_is_left_alone(serving: Serving, raw: Path) -> None:
    with access_methods.file(serving.address(raw)) as disk:
        assert access_methods.cleanup() == []
        assert disk.path.read_bytes() == raw.read_bytes()


def test_a_forked_child_that_ends_does_not_undo_what_its_parent_uses(serving: Serving, raw: Path) -> None:
    with access_methods.file(serving.address(raw)) as disk, recorded() as mine:
        child = os.fork()
        if not child:
            mine.undo()
            os._exit(0)
        os.waitpid(child, 0)
        assert mine.directory.exists()
        assert disk.path.exists()


def test_a_line_that_the_crash_cut_is_no_obstacle(run_directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "stub"
    file.touch()
    left = Record.begin()
    left.note(MadeFile(str(file), file.stat().st_dev, file.stat().st_ino))
    with (left.directory / "steps").open("a") as steps:
        steps.write('{"kind": "Mou')
    os.close(left._lock)  # the worker is gone
    assert [outcome.is_undone for outcome in access_methods.cleanup()] == [True]
    assert not file.exists()


def test_what_cannot_be_undone_is_said_and_tried_again(run_directory: Path) -> None:
    with pytest.raises(NotUndone, match="cloudmanager cleanup") as failed, recorded() as mine:
        mount_something(mine)
    (outcome,) = failed.value.outcomes
    assert "still mounted" in outcome.error
    assert [again.is_undone for again in access_methods.cleanup()] == [False]
    disks.run("umount", mine.directory / "something")
    assert access_methods.cleanup() == []
    assert list(run_directory.iterdir()) == []


def test_the_workers_own_error_is_told_what_could_not_be_undone() -> None:
    with pytest.raises(FileExistsError) as failed, recorded() as mine:
        mount_something(mine, again=True)
    assert "still mounted" in failed.value.__notes__[0]
    disks.run("umount", mine.directory / "something")
    access_methods.cleanup()


def mount_something(mine: Record, *, again: bool = False) -> None:
    """That nobody has noted."""
    (mine.directory / "something").mkdir()
    disks.run("mount", "-t", "tmpfs", "something", mine.directory / "something")
    if again:
        mount_something(mine)


def test_a_step_that_was_noted_and_not_taken_is_undone_without_harm(tmp_path: Path) -> None:
    with recorded() as mine:
        mine.note(MountPoint(str(tmp_path / "never")))
        mine.note(MadeFile(str(tmp_path / "never"), 1, 1))


def test_records_are_kept_where_others_cannot_write(run_directory: Path) -> None:
    run_directory.mkdir(mode=0o777)
    run_directory.chmod(0o777)
    with pytest.raises(AccessFailed, match="changed by others"), recorded():
        pass


def test_records_of_root_are_in_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(record.RUN_DIRECTORY)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert record.run_directory() == Path("/run/cloudmanager-client")


def test_records_of_a_user_are_in_the_directory_of_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(record.RUN_DIRECTORY)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert record.run_directory() == Path("/run/user/1000/cloudmanager")


def processes_with(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{directory}/".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_ctrl_c_ends_the_worker_which_undoes_everything(
    start_worker: Callable[[], Worker], run_directory: Path
) -> None:
    worker = start_worker()
    worker.interrupt()
    assert worker.finish() == -signal.SIGINT
    assert not worker.is_at_work()
    assert list(run_directory.iterdir()) == []
