"""A service, and the commands for people as processes that ask it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.client.daemon import Daemon

PLAIN = bytes(range(256)) * 4096
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """With a disk `plain.img` of 4 MiB of a pattern, and `system.img` with an ext4 file system and a file."""
    running = Daemon(tmp_path_factory.mktemp("service"))
    running.image("plain.img", PLAIN)
    make_system(running.images / "system.img")
    try:
        running.started()
        yield running
    finally:
        running.end()


def make_system(image: Path) -> None:
    """A file system with one file, made without mounting it."""
    content = image.parent.parent / "content"
    content.mkdir()
    (content / "hello.txt").write_text("from inside the disk\n")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-L", "evidence", "-d", content, image, "16M"], check=True)


@pytest.fixture
def environment(daemon: Daemon, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDMANAGER_")}
    return kept | {"CLOUDMANAGER_URL": daemon.url, "CLOUDMANAGER_RUN_DIR": str(tmp_path / "run"), "COLUMNS": "200"}


@pytest.fixture
def people(environment: dict[str, str], tmp_path: Path) -> Run:
    """`people("disks", "--json")`."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cloudmanager", *arguments],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    return run


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """As `people`, but it goes on; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cloudmanager", *arguments]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
