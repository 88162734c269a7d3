"""What a server may use: a hostile image costs its own export at the most."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudmanager.confined.groups import PREFIX, ControlGroups
from cloudmanager.core.errors import ServerFailed
from cloudmanager.core.nbd.failure import limit_reached
from cloudmanager.core.nbd.startup import FILES_PER_SERVER, THREADS_PER_SERVER
from tests.core.nbd.client import READ
from tests.core.nbd.exporter import Exporter, MiB, device

GiB, TiB = 1024 * MiB, 1024**4
SANDBOXES = pytest.mark.parametrize("sandbox", ["bubblewrap", "none"])


def vdi_with_a_map_of(path: Path, map_bytes: int) -> Path:
    """4 KiB that make QEMU allocate as much, and fill it."""
    blocks = map_bytes // 4
    header = bytearray(4096)
    header[:40] = b"<<< Oracle VM VirtualBox Disk Image >>>\n"
    struct.pack_into("<IIIII", header, 64, 0xBEDA107F, 0x00010001, 400, 1, 0)
    struct.pack_into("<II", header, 340, 512, 512 + map_bytes)
    struct.pack_into("<IIIIIQIIII", header, 348, 0, 0, 0, 512, 0, blocks * MiB, MiB, 0, blocks, 0)
    path.write_bytes(header)
    return path


@pytest.fixture
def groups() -> ControlGroups:
    found = ControlGroups.find()
    if found is None or "pids" not in found.controllers:
        pytest.skip("no control groups can be made here")
    return found


@SANDBOXES
def test_an_image_that_takes_more_than_its_server_may_have_fails_its_export_only(
    make_exporter: Callable[..., Exporter], raw: Path, tmp_path: Path, sandbox: str
) -> None:
    exporter = make_exporter(sandbox=sandbox)
    other = exporter.export(device(raw))
    bomb = vdi_with_a_map_of(tmp_path / "bomb.vdi", GiB)
    with pytest.raises(ServerFailed, match=r"1024 MiB of memory .*memory_limit_bytes") as caught:
        exporter.export(device(bomb, "vdi", size_bytes=GiB // 4 * MiB))
    assert not caught.value.retriable
    with other.connect() as client:
        assert client.read(0, 512) == raw.read_bytes()[:512]


def test_the_limit_is_the_settings(make_exporter: Callable[..., Exporter], tmp_path: Path) -> None:
    bomb = device(vdi_with_a_map_of(tmp_path / "bomb.vdi", 128 * MiB), "vdi", size_bytes=32 * TiB)
    assert make_exporter(memory_limit_bytes=GiB).export(bomb).pid
    with pytest.raises(ServerFailed, match="128 MiB of memory"):
        make_exporter(memory_limit_bytes=128 * MiB).export(bomb)


@pytest.mark.parametrize(
    ("format_name", "size", "options"),
    [
        ("qcow2", "64T", ["-o", "cluster_size=64k"]),
        ("qcow2", "8T", ["-o", "cluster_size=64k,extended_l2=on"]),
        ("vdi", "2T", []),
        ("vhdx", "16T", []),
        ("vmdk", "2T", []),
        ("raw", "4T", []),
    ],
)
def test_large_images_are_served_within_the_default(
    exporter: Exporter, tmp_path: Path, format_name: str, size: str, options: list[str]
) -> None:
    image = tmp_path / "large"
    subprocess.run(["qemu-img", "create", "-q", "-f", format_name, *options, image, size], check=True)
    size_bytes = int(size[:-1]) * TiB
    with exporter.export(device(image, format_name, size_bytes=size_bytes)).connect() as client:
        for offset in (0, size_bytes // 2, size_bytes - MiB):
            assert client.read(offset, MiB) == bytes(MiB)


@SANDBOXES
def test_a_server_has_its_limits(make_exporter: Callable[..., Exporter], raw: Path, sandbox: str) -> None:
    served = make_exporter(sandbox=sandbox, memory_limit_bytes=512 * MiB).export(device(raw))
    limits = {line[:25].strip(): line.split() for line in Path(f"/proc/{served.pid}/limits").read_text().splitlines()}
    assert limits["Max data size"][3:5] == [str(512 * MiB)] * 2
    assert int(limits["Max stack size"][3]) < 8 * MiB
    assert limits["Max open files"][3:5] == [str(FILES_PER_SERVER)] * 2


@SANDBOXES
def test_a_server_has_a_control_group_of_its_own_until_it_ends(
    make_exporter: Callable[..., Exporter], groups: ControlGroups, raw: Path, sandbox: str
) -> None:
    exporter = make_exporter(sandbox=sandbox, cpu_weight=50)
    served = exporter.export(device(raw))
    parents = groups._parents
    group = parents["pids"] / f"{PREFIX}{served.pid}"
    assert (group / "pids.max").read_text().strip() == str(THREADS_PER_SERVER)
    assert str(served.pid) in (group / "cgroup.procs").read_text().split()
    if "cpu" in parents:
        share = "cpu.weight" if groups.version == 2 else "cpu.shares"
        shares = int((parents["cpu"] / group.name / share).read_text())
        assert shares == (50 if groups.version == 2 else 512)
    exporter.stop_each()
    assert not group.exists()


def test_a_group_that_nobody_removed_is_swept_and_one_in_use_is_not(
    make_exporter: Callable[..., Exporter], groups: ControlGroups, raw: Path
) -> None:
    served = make_exporter().export(device(raw))
    with subprocess.Popen(["true"]) as ended:
        pass
    left, about_to_be_used = (groups._parents["pids"] / f"{PREFIX}{pid}" for pid in (ended.pid, os.getpid()))
    left.mkdir()
    about_to_be_used.mkdir()
    try:
        groups.sweep()
        assert not left.exists()
        assert about_to_be_used.exists()
        assert (left.parent / f"{PREFIX}{served.pid}").exists()
    finally:
        about_to_be_used.rmdir()


def test_a_client_that_takes_nothing_of_what_it_asks_for_costs_others_nothing(
    make_exporter: Callable[..., Exporter], raw: Path
) -> None:
    raw.write_bytes(bytes(4 * MiB))
    exporter = make_exporter(memory_limit_bytes=64 * MiB)
    victim, other = exporter.export(device(raw)), exporter.export(device(raw))
    with victim.connect() as greedy, other.connect() as reader:
        greedy.socket.settimeout(0.5)
        try:
            for _ in range(64):
                greedy._request(READ, 0, 4 * MiB)
        except OSError:  # it was cut off, or nothing more is taken from it
            pass
        used = _allocated(victim.pid)
        assert used is None or used <= 64 * MiB
        assert len(reader.read(0, MiB)) == MiB


def _allocated(pid: int) -> int | None:
    """None once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    except (OSError, StopIteration):
        return None


@pytest.mark.parametrize(
    ("output", "which"),
    [
        ("Could not open 'x': Cannot allocate memory", "1024 MiB of memory"),
        ("GLib: ../glib/gmem.c:106: failed to allocate 1073741824 bytes", "1024 MiB of memory"),
        ("Failed to open: Too many open files", "open files"),
        ("Image is corrupt", ""),
    ],
)
def test_what_a_server_says_names_the_limit_that_it_reached(output: str, which: str) -> None:
    assert which in limit_reached(output, GiB)
    assert bool(limit_reached(output, GiB)) == bool(which)
