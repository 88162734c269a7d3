"""Clients that copy a disk and write to another notice neither restarts of the service nor its upgrade among them."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.core.nbd.client import Client
from tests.faults.daemon import Daemon
from tests.faults.earlier_version import revision_before_head, revision_of, set_back
from tests.waiting import eventually

MiB = 1 << 20
READ, WRITTEN = "read.img", "written.img"
RESTARTS = 20
UPGRADE_AT = RESTARTS // 2
PORTION = MiB
SIZE = (RESTARTS + 1) * PORTION
BLOCK = 64 * 1024


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path, tmp_path / "state")
    chance = random.Random(READ)  # noqa: S311 - any bytes will do
    (daemon.disks / READ).write_bytes(chance.randbytes(SIZE))
    (daemon.disks / WRITTEN).write_bytes(bytes(RESTARTS * BLOCK))
    daemon.start()
    yield daemon
    daemon.close()


@contextmanager
def _copying(export: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """nbdcopy into a pipe, which is read in portions so that the copy lasts as long as the restarts."""
    command = ["nbdcopy", "--connections=1", "--request-size=65536", "--requests=1", export["uri"], "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as copying:
        yield copying
    assert copying.returncode == 0


def _portion(copying: subprocess.Popen[bytes]) -> bytes:
    assert copying.poll() is None
    return _output(copying).read(PORTION)


def _output(copying: subprocess.Popen[bytes]) -> IO[bytes]:
    assert copying.stdout
    return copying.stdout


def _restart(daemon: Daemon, number: int) -> None:
    """By turns it is stopped and killed. One of the restarts is an upgrade to the schema of this version."""
    (daemon.kill if number % 2 else daemon.stop)()
    store = daemon.state / "cloudmanager.sqlite"
    before = revision_before_head()
    if number == UPGRADE_AT and before is not None:
        set_back(store, before)
        daemon.start()
        assert revision_of(store) != before
    else:
        daemon.start()


def _mark(number: int) -> bytes:
    return bytes([number + 1]) * BLOCK


def _writes_through(client: Client, daemon: Daemon, number: int) -> None:
    """What it writes before a restart it can flush after it, and read back."""
    client.write(number * BLOCK, _mark(number))
    _restart(daemon, number)
    client.flush()
    assert client.read(number * BLOCK, BLOCK) == _mark(number)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_neither_a_copy_nor_a_writer_notices_twenty_restarts_and_an_upgrade_across_a_migration(
    daemon: Daemon,
) -> None:
    read, written = daemon.ready(READ), daemon.ready(WRITTEN, "read-write")
    copy = b""
    with _copying(read) as copying, daemon.connect(written) as client:
        for number in range(RESTARTS):
            _writes_through(client, daemon, number)
            copy += _portion(copying)
        copy += _output(copying).read()
    assert copy == (daemon.disks / READ).read_bytes()
    for export in (read, written):
        found = daemon.get(export)
        assert (found["state"], found["uri"], found["expires_at"]) == ("ready", export["uri"], export["expires_at"])
    daemon.release(written)
    eventually(lambda: daemon.get(written)["state"] == "closed")
    assert (daemon.disks / WRITTEN).read_bytes() == b"".join(map(_mark, range(RESTARTS)))
