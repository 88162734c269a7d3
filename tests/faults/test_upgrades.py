"""A client does not notice that the service is replaced by one of the next version, which changes the schema."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.daemon import Daemon
from tests.faults.earlier_version import revision_before_head, revision_of, set_back
from tests.waiting import eventually

MiB = 1 << 20
SIZE = 32 * MiB
BLOCK = 64 * 1024
PORTION = SIZE // 8
BEFORE = revision_before_head()
pytestmark = pytest.mark.skipif(BEFORE is None, reason="this version's schema is the first")
End = Callable[[Daemon], None]
ENDS = {"stopped": Daemon.stop, "killed": Daemon.kill}


def ended(quick: str) -> pytest.MarkDecorator:
    """In each of these ways, of which one is quick enough for every run."""
    marks = {name: () if name == quick else (pytest.mark.slow,) for name in ENDS}
    return pytest.mark.parametrize("end", [pytest.param(ENDS[name], id=name, marks=marks[name]) for name in ENDS])


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path, tmp_path / "state")
    (daemon.disks / "disk.img").write_bytes(random.Random("disk").randbytes(MiB) * (SIZE // MiB))  # noqa: S311 - any bytes
    daemon.start()
    yield daemon
    daemon.close()


def _upgrade(daemon: Daemon, end: End) -> None:
    """Until now it was the version before; from here on it is this one."""
    end(daemon)
    assert BEFORE is not None
    path = daemon.state / "cloudmanager.sqlite"
    set_back(path, BEFORE)
    daemon.start()
    assert revision_of(path) != BEFORE


def _is_adopted(daemon: Daemon, export: dict[str, Any]) -> None:
    found = daemon.get(export)
    assert {name: found[name] for name in ("state", "uri", "expires_at")} == {
        name: export[name] for name in ("state", "uri", "expires_at")
    }


@ended(quick="killed")
def test_a_copy_does_not_notice_an_upgrade_across_a_migration(daemon: Daemon, end: End, tmp_path: Path) -> None:
    export = daemon.ready("disk.img")
    copy = tmp_path / "copy"
    command = ["nbdcopy", "--connections=1", "--request-size=65536", "--requests=1", export["uri"], "-"]
    with copy.open("wb") as target, subprocess.Popen(command, stdout=subprocess.PIPE) as copying:
        assert copying.stdout  # a pipe that is read in portions lets the copy last as long as the upgrade
        target.write(copying.stdout.read(PORTION))
        _upgrade(daemon, end)
        assert copying.poll() is None
        target.write(copying.stdout.read(PORTION))
        _is_adopted(daemon, export)
        target.write(copying.stdout.read())
    assert copying.returncode == 0
    assert copy.read_bytes() == (daemon.disks / "disk.img").read_bytes()


@ended(quick="stopped")
def test_what_a_client_has_flushed_across_an_upgrade_is_on_the_disk(daemon: Daemon, end: End) -> None:
    export = daemon.ready("disk.img", "read-write")
    marks = [os.urandom(BLOCK) for _ in range(3)]
    with daemon.connect(export) as client:
        client.write(0, marks[0])
        client.flush()
        client.write(BLOCK, marks[1])
        _upgrade(daemon, end)
        client.flush()
        client.write(2 * BLOCK, marks[2])
        client.flush()
        assert client.read(0, 3 * BLOCK) == b"".join(marks)
        _is_adopted(daemon, export)
    daemon.release(export)
    eventually(lambda: daemon.get(export)["state"] == "closed")
    assert (daemon.disks / "disk.img").read_bytes()[: 3 * BLOCK] == b"".join(marks)
