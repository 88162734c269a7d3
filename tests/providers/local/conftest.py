"""Local providers on real files, loop devices, partitions and mounts, all undone at the end."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloudmanager.core.model import Disk, DiskId, Query
from cloudmanager.providers.local import LocalProvider
from cloudmanager.providers.local.settings import LocalSettings
from tests.loop_devices import loop_device

MiB = 1024 * 1024


def run(*command: str | Path) -> str:
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout.strip()


def run_patiently(*command: str | Path) -> str:
    """Again when it fails: another process may have taken the same free loop device, or be looking at this one."""
    for _ in range(40):
        ended = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True)
        if ended.returncode == 0:
            return ended.stdout.strip()
        threading.Event().wait(0.05)
    raise AssertionError(f"{command}: {ended.stderr}")


def qemu_img(*arguments: str | Path) -> None:
    run("qemu-img", *arguments)


def disk_id(native: str | Path) -> DiskId:
    return DiskId("local", str(native))


def found(provider: LocalProvider, text: str = "") -> dict[str, Disk]:
    """Every page of the list, by native id."""
    disks: dict[str, Disk] = {}
    token = None
    while True:
        page = provider.find(Query(text=text), token)
        disks |= {disk.id.native: disk for disk in page.items}
        token = page.next_page
        if token is None:
            return disks


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


@pytest.fixture
def provider(directory: Path) -> LocalProvider:
    """Images below one directory, and devices."""
    return LocalProvider("local", LocalSettings(images=(directory,), devices=True))


@pytest.fixture
def raw(directory: Path) -> Path:
    path = directory / "web01.raw"
    path.write_bytes(b"\x17" * MiB)
    return path


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def loop(undo: ExitStack) -> Callable[..., str]:
    """Makes a loop device of a file and gives its kernel name."""

    def attach(path: Path, *options: str) -> str:
        return undo.enter_context(loop_device(path, *options)).name

    return attach


@pytest.fixture
def partitioned(tmp_path: Path, loop: Callable[..., str], undo: ExitStack) -> str:
    """The kernel name of a loop device with two partitions of 4 MiB."""
    path = tmp_path / "disk"
    path.write_bytes(b"")
    os.truncate(path, 16 * MiB)
    subprocess.run(["sfdisk", "-q", path], input="label: gpt\nsize=4M\nsize=4M\n", text=True, check=True)
    name = loop(path)
    subprocess.run(["partx", "-d", f"/dev/{name}"], check=False, capture_output=True)  # what others left behind
    run_patiently("partx", "-u", f"/dev/{name}")
    undo.callback(run, "partx", "-d", f"/dev/{name}")
    return name


@pytest.fixture
def mount(tmp_path: Path, undo: ExitStack) -> Callable[..., Path]:
    """Mounts something on a new directory."""

    def at(source: str | Path, *options: str) -> Path:
        target = tmp_path / f"mounted on {len(list(tmp_path.iterdir()))}"
        target.mkdir()
        run("mount", *options, source, target)
        undo.callback(run, "umount", target)
        return target

    return at
