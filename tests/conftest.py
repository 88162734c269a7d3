"""Fixtures of the whole suite."""

from __future__ import annotations

import gc
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.janitor import Janitor
from tests.ports import free_port

# A shell that starts the suite in the background has it ignore Ctrl-C, and what is ignored is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)

gc.disable()  # what is imported and collected stays: to search it again and again takes a fifth of the time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Else all but one worker would end the suite by waiting for the longest test."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _janitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """So that a run that is killed does not spoil the next one, and no test leaves anything behind."""
    janitor = Janitor(tmp_path_factory.getbasetemp())
    yield
    left = janitor.dismiss()
    assert not left, "left behind by a test:\n" + "\n".join(left)


def _postgres_bin() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.fail("PostgreSQL is not installed; `make setup` installs it")
    return found[-1].parent


@pytest.fixture(scope="session", autouse=True)
def _locks_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The emulated clouds of several runs have the same disks, and are no one machine."""
    directory = tmp_path_factory.getbasetemp() / "disk-locks"
    directory.mkdir(mode=0o700)
    os.environ["CLOUDMANAGER_SERVER__LOCK_DIR"] = str(directory)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of the session's own."""
    with postgres_server() as url:
        yield url


@contextmanager
def postgres_server() -> Iterator[str]:
    """On loopback. It refuses to run as root, so it runs as `postgres`."""
    binaries = _postgres_bin()
    directory = Path(tempfile.mkdtemp(prefix="cm-pg-"))
    as_user = []
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(directory, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]
    port = free_port()
    data, log = directory / "data", directory / "log"

    def run(*command: str | Path) -> None:
        subprocess.run([*as_user, *map(str, command)], check=True, capture_output=True, cwd=directory)

    run(binaries / "initdb", "-D", data, "-A", "trust", "-U", "cloudmanager", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    run(binaries / "pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
    try:
        yield f"postgresql+psycopg://cloudmanager@127.0.0.1:{port}"
    finally:
        run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(directory)
