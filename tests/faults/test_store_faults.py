"""Whatever happens to the store's file: a clear word, exports go on, nothing is half written, and it mends itself."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from cloudmanager.core.model import Severity
from cloudmanager.core.store.check import check
from tests.core.bench import kill, processes_of
from tests.core.nbd.client import Client
from tests.faults.daemon import Daemon
from tests.waiting import eventually

MiB = 1 << 20
BYTES = random.Random("disk").randbytes(2 * MiB)  # noqa: S311 - any bytes will do
PAGE = 4096
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts file systems")
StartsOn = Callable[[Path], Daemon]


@pytest.fixture
def starts_on(tmp_path: Path) -> Iterator[StartsOn]:
    """A service with its state on that directory, and the disks a.img and b.img elsewhere."""
    with ExitStack() as undo:

        def start(state: Path) -> Daemon:
            daemon = Daemon(tmp_path, state)
            for name in ("a.img", "b.img"):
                (daemon.disks / name).write_bytes(BYTES)
            undo.callback(daemon.close)
            daemon.start()
            return daemon

        yield start


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system that is soon full."""
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=4m", "none") as path:
        yield path


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """A file system that becomes read-only when something is wrong with it."""
    image = tmp_path / "ext4"
    image.touch()
    os.truncate(image, 32 * MiB)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    with mounted(tmp_path / "mounted", "-o", "loop,errors=remount-ro", image) as path:
        yield path


@contextmanager
def mounted(path: Path, *arguments: str | Path) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", *arguments, path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def _fill(directory: Path) -> Path:
    """Not a byte more fits."""
    path = directory / "fill"
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(PAGE))
    return path


def _in_order(daemon: Daemon) -> bool:
    url = f"sqlite:///{daemon.state}/cloudmanager.sqlite"
    return {finding.severity for finding in check(url)} == {Severity.OK}


def _serves(client: Client) -> bool:
    return client.read(0, MiB) == BYTES[:MiB]


def _refuses_writes(daemon: Daemon, export: dict[str, object], code: str, arguments: str) -> None:
    """Requests and releases are answered in plain words, what is there can be read and is served."""
    for answer in (daemon.export("b.img"), daemon.release(export)):
        assert answer.status_code == 503
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["code"] == code
        assert answer.json()["retriable"] is True
        assert arguments in answer.json()["detail"]
    status, seen = daemon.readiness()
    assert status == 503
    assert arguments in seen
    assert daemon.get(export)["state"] == "ready"
    with daemon.connect(export) as another:
        assert _serves(another)


def _goes_on(daemon: Daemon, export: dict[str, object]) -> None:
    """By itself, and as if nothing had been asked for."""
    eventually(lambda: daemon.readiness()[0] == 200)
    assert [each["id"] for each in daemon.exports()] == [export["id"]]
    assert daemon.ready("b.img")
    assert daemon.release(export).status_code == 200
    eventually(lambda: daemon.get(export)["state"] == "closed")
    assert _in_order(daemon)


@pytest.mark.slow
@as_root
def test_on_a_full_disk_exports_go_on_and_so_does_the_service_when_there_is_room(
    small: Path, starts_on: StartsOn
) -> None:
    daemon = starts_on(small / "state")
    export = daemon.ready("a.img")
    with daemon.connect(export) as client:
        fill = _fill(small)
        _refuses_writes(daemon, export, "store_full", f"No space is left in {small}/state. Make room there")
        assert _serves(client)
        fill.unlink()
        assert _serves(client)
    _goes_on(daemon, export)


@pytest.mark.slow
@as_root
def test_while_another_program_locks_the_store_exports_go_on_and_so_does_the_service_afterwards(
    starts_on: StartsOn, tmp_path: Path
) -> None:
    daemon = starts_on(tmp_path / "state")
    export = daemon.ready("a.img")
    path = tmp_path / "state" / "cloudmanager.sqlite"
    with daemon.connect(export) as client, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        _refuses_writes(daemon, export, "store_locked", f"`fuser {path}` names what has it open")
        assert _serves(client)
        other.execute("ROLLBACK")
    _goes_on(daemon, export)


@as_root
def test_on_a_file_system_that_became_read_only_exports_go_on_until_it_is_mended(
    ext4: Path, starts_on: StartsOn, tmp_path: Path
) -> None:
    daemon = starts_on(ext4 / "state")
    export = daemon.ready("a.img")
    with daemon.connect(export) as client:
        _break(ext4)
        _refuses_writes(daemon, export, "store_read_only", f"{ext4}/state takes no writes")
        daemon.stop()
        assert _serves(client)
        _mend(ext4, tmp_path / "ext4")
        daemon.start()
        assert _serves(client)
    _goes_on(daemon, export)


def _break(path: Path) -> None:
    """As the kernel does when it finds damage."""
    source = subprocess.run(["findmnt", "-no", "SOURCE", path], check=True, capture_output=True, text=True).stdout
    trigger = Path("/sys/fs/ext4") / Path(source.strip()).name / "trigger_fs_error"
    if not trigger.exists():
        pytest.skip("this kernel has no way to break an ext4 file system")
    trigger.write_text("1")


def _mend(path: Path, image: Path) -> None:
    """As an administrator does."""
    subprocess.run(["umount", path], check=True)
    subprocess.run(["e2fsck", "-fy", image], check=False, capture_output=True)
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, path], check=True)


@as_root
def test_a_server_that_dies_on_a_full_disk_is_replaced_when_there_is_room(small: Path, starts_on: StartsOn) -> None:
    daemon = starts_on(small / "state")
    export = daemon.ready("a.img")
    fill = _fill(small)
    for pid in processes_of(export["uri"].rpartition("/")[2]):
        kill(pid)
    eventually(lambda: daemon.readiness()[0] == 503)
    fill.unlink()
    eventually(lambda: _answers(daemon, export))
    _goes_on(daemon, export)


def _answers(daemon: Daemon, export: dict[str, object]) -> bool:
    with suppress(OSError), daemon.connect(export) as client:
        return _serves(client)
    return False


@as_root
def test_no_service_starts_on_a_full_disk_and_exports_go_on_until_one_does(small: Path, starts_on: StartsOn) -> None:
    daemon = starts_on(small / "state")
    export = daemon.ready("a.img")
    with daemon.connect(export) as client:
        daemon.kill()
        fill = _fill(small)
        refused = daemon.command("serve")
        assert refused.returncode == 1
        assert "No space is left" in refused.stderr
        assert "Make room" in refused.stderr
        assert "Traceback" not in refused.stderr
        fill.unlink()
        daemon.start()
        assert _serves(client)
    _goes_on(daemon, export)


@pytest.mark.slow
@as_root
def test_no_service_starts_on_a_read_only_file_system(ext4: Path, starts_on: StartsOn) -> None:
    daemon = starts_on(ext4 / "state")
    export = daemon.ready("a.img")
    daemon.stop()
    subprocess.run(["mount", "-o", "remount,ro", ext4], check=True)
    refused = daemon.command("serve")
    assert refused.returncode == 1
    assert f"{ext4}/state cannot be used: Read-only file system. Mount its file system read-write" in refused.stderr
    subprocess.run(["mount", "-o", "remount,rw", ext4], check=True)
    daemon.start()
    _goes_on(daemon, export)


def test_a_store_that_is_damaged_under_a_service_is_told_of_and_exports_go_on(
    starts_on: StartsOn, tmp_path: Path
) -> None:
    daemon = starts_on(tmp_path / "state")
    export = daemon.ready("a.img")
    path = tmp_path / "state" / "cloudmanager.sqlite"
    with daemon.connect(export) as client:
        assert daemon.command("store", "backup", str(tmp_path / "backup")).returncode == 0
        _damage_exports(path)
        answer = daemon.client.get("/v1/exports")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_damaged")
        assert "`cloudmanager store restore`" in answer.json()["detail"]
        assert _serves(client)
        daemon.stop()
        _restores(daemon, tmp_path / "backup")
        assert _serves(client)
    _goes_on(daemon, export)


def _damage_exports(path: Path) -> None:
    """In the file itself, so that a service that has read it before reads it again."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        (root,) = other.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'exports'").fetchone()
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            file.seek((root - 1) * PAGE)
            file.write(b"\xff" * PAGE)
        other.execute("UPDATE nodes SET boot_id = boot_id")


def _restores(daemon: Daemon, backup: Path) -> None:
    refused = daemon.command("serve")
    assert refused.returncode == 1
    assert "is damaged" in refused.stderr
    assert daemon.command("store", "check").returncode == 3
    restored = daemon.command("store", "restore", str(backup))
    assert restored.returncode == 0, restored.stderr
    daemon.start()


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["header", "middle"])
def test_no_service_starts_on_a_damaged_store_and_a_backup_brings_it_back(
    starts_on: StartsOn, tmp_path: Path, damaged: str
) -> None:
    daemon = starts_on(tmp_path / "state")
    export = daemon.ready("a.img", "read-write")
    with daemon.connect(export) as client:
        assert daemon.command("store", "backup", str(tmp_path / "backup")).returncode == 0
        daemon.stop()
        with (tmp_path / "state" / "cloudmanager.sqlite").open("r+b") as file:
            file.seek(0 if damaged == "header" else file.seek(0, os.SEEK_END) // PAGE // 2 * PAGE)
            file.write(b"\xff" * PAGE)
        _restores(daemon, tmp_path / "backup")
        assert _serves(client)
    _goes_on(daemon, export)
