"""The file way: nbdfuse on a real export."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloudmanager.client import access_methods
from cloudmanager.client.access_methods import fuse_file
from cloudmanager.client.access_methods.errors import AccessFailed, AccessLost
from cloudmanager.client.address import NbdAddress
from cloudmanager.core.model import Access
from tests.checkout import ROOT
from tests.client.access_methods.serving import Serving
from tests.core.nbd.exporter import read_back

MARK = b"written by the worker"
NOBODY = 65534
MAY_LOOK = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
"""For Python and the test's directory may be below directories of root's alone."""
IGNORES_CTRL_C = """
import os, signal
signal.signal(signal.SIGINT, lambda *_: None)
def interrupt():
    children = [int(pid) for pid in open(f"/proc/self/task/{os.getpid()}/children").read().split()]
    ended = [os.pidfd_open(pid) for pid in children]
    os.killpg(0, signal.SIGINT)
    select.select(ended, [], [], 0.5)
"""
COPIES_THE_DISK = """
import select, shutil, sys
from cloudmanager.client import access_methods
from cloudmanager.client.address import NbdAddress
with access_methods.file(NbdAddress(sys.argv[1])) as disk:
    if "interrupt" in globals():
        interrupt()
    shutil.copyfile(disk.path, "copy")
"""


def test_the_file_has_the_bytes_of_the_disk(serving: Serving, raw: Path) -> None:
    with access_methods.file(serving.address(raw)) as disk:
        assert disk.path.is_file()
        assert (disk.size_bytes, disk.is_writable, disk.is_lost) == (raw.stat().st_size, False, False)
        assert disk.path.read_bytes() == raw.read_bytes()
    assert not disk.path.exists()


def test_what_was_read_is_remembered_for_who_opens_the_file_next(serving: Serving, raw: Path) -> None:
    address = serving.address(raw)
    with access_methods.file(address) as disk:
        assert disk.path.read_bytes() == raw.read_bytes()
        serving.kill(address)
        assert disk.path.read_bytes() == raw.read_bytes()


@pytest.mark.skipif(not os.access("/sys/class/bdi", os.W_OK), reason="needs root, and a /sys that can be written")
def test_the_kernel_reads_a_megabyte_ahead(serving: Serving, raw: Path) -> None:
    with access_methods.file(serving.address(raw)) as disk:
        number = disk.path.stat().st_dev
        setting = Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb")
        assert setting.read_text() == "1024\n"


def test_the_file_of_a_read_only_export_refuses_writes(serving: Serving, raw: Path) -> None:
    with access_methods.file(serving.address(raw)) as disk, pytest.raises(PermissionError):
        disk.path.open("r+b")


def test_a_writable_export_can_be_opened_read_only(serving: Serving, raw: Path) -> None:
    with access_methods.file(serving.address(raw, Access.SCRATCH), read_only=True) as disk:
        with pytest.raises(PermissionError):
            disk.path.open("r+b")


def test_what_is_written_to_scratch_is_read_back_and_never_reaches_the_image(serving: Serving, raw: Path) -> None:
    before = raw.read_bytes()
    with access_methods.file(serving.address(raw, Access.SCRATCH)) as disk:
        with disk.path.open("r+b") as file:
            file.write(MARK)
        with disk.path.open("rb") as file:
            assert file.read(len(MARK)) == MARK
    assert raw.read_bytes() == before


def test_what_is_written_is_with_the_server_when_the_file_is_gone(serving: Serving, raw: Path, tmp_path: Path) -> None:
    address = serving.address(raw, Access.READ_WRITE)
    with access_methods.file(address) as disk, disk.path.open("r+b") as file:
        file.seek(2**20)
        file.write(MARK)
    assert read_back(address.uri, tmp_path / "copy")[2**20 :].startswith(MARK)


def test_the_key_of_a_tls_address_is_used_and_nobody_else_can_read_it(
    tls_serving: Serving, raw: Path, run_directory: Path
) -> None:
    address = tls_serving.address(raw)
    assert address.credentials is not None
    with access_methods.file(address) as disk:
        assert disk.path.read_bytes() == raw.read_bytes()
        (keys,) = run_directory.glob("*/keys.psk")
        assert keys.stat().st_mode & 0o777 == 0o600
        command_line = Path(f"/proc/{disk._server.pid}/cmdline").read_bytes()
        assert address.credentials.key.encode() not in command_line


def test_a_wrong_key_is_refused_in_nbdfuses_words(tls_serving: Serving, raw: Path) -> None:
    address, other = tls_serving.address(raw), tls_serving.address(raw)
    with (
        pytest.raises(AccessFailed, match=r"nbdfuse: (.|\n)*TLS"),
        access_methods.file(NbdAddress(address.uri, other.credentials)),
    ):
        pass


def test_an_address_that_nobody_serves_fails_in_nbdfuses_words() -> None:
    with pytest.raises(AccessFailed, match="refused"), access_methods.file(NbdAddress("nbd://127.0.0.1:1/disk")):
        pass


def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = NbdAddress(f"nbd://127.0.0.1:{silent.getsockname()[1]}/disk")
        with pytest.raises(AccessFailed, match=r"within 0\.2 s"), access_methods.file(address, ready_seconds=0.2):
            pass


def test_where_others_have_the_places_one_connection_does(make_serving: Callable[..., Serving], raw: Path) -> None:
    with access_methods.file(make_serving(connections=2).address(raw)) as disk:
        assert disk.path.read_bytes() == raw.read_bytes()


def test_two_connections_are_read_from(serving: Serving, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nbdfuse leaves one idle, which has a few bytes from the handshake."""
    monkeypatch.setattr(fuse_file, "_SEVERAL_SECONDS", 30)  # a machine that is busy does not fall back
    with access_methods.file(serving.address(raw)) as disk:
        disk.path.read_bytes()
        assert len([received for received in received_bytes(disk._server.pid) if received > 2**16]) >= 2


def received_bytes(pid: int) -> list[int]:
    """Of each TCP connection of a process, as ss(8) tells it."""
    shown_output = subprocess.run(["ss", "-tinpOH"], check=True, capture_output=True, text=True).stdout
    own = [line for line in shown_output.splitlines() if f"pid={pid}," in line]
    return [int(found[1]) for line in own if (found := re.search(r"bytes_received:(\d+)", line))]


def test_a_lost_connection_is_an_error_for_the_reader_and_at_the_end(serving: Serving, raw: Path) -> None:
    address = serving.address(raw)
    with pytest.raises(AccessLost, match="the connection ended while"):
        _read_from_a_server_that_dies(serving, address)


def _read_from_a_server_that_dies(serving: Serving, address: NbdAddress) -> None:
    with access_methods.file(address) as disk:
        serving.kill(address)
        with pytest.raises(OSError, match=r"not connected|Invalid argument|Input/output error"):
            disk.path.read_bytes()
        assert disk.is_lost


def test_a_reader_that_still_has_it_open_does_not_keep_it(serving: Serving, raw: Path) -> None:
    with access_methods.file(serving.address(raw)) as disk:
        reader = os.open(disk.path, os.O_RDONLY)
    try:
        assert not disk.path.exists()
        with pytest.raises(OSError, match="not connected"):
            os.read(reader, 512)
    finally:
        os.close(reader)


def test_the_workers_own_error_comes_through_and_all_is_undone(serving: Serving, raw: Path) -> None:
    with pytest.raises(ZeroDivisionError), access_methods.file(serving.address(raw)) as disk:
        _ = 1 / 0
    assert not disk.path.exists()


def test_several_at_once_do_not_meet(serving: Serving, raw: Path) -> None:
    address = serving.address(raw)

    def read(_: int) -> bytes:
        with access_methods.file(address) as disk:
            return disk.path.read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(read, range(4))) == {raw.read_bytes()}


def test_a_worker_that_outlives_ctrl_c_keeps_its_file(serving: Serving, raw: Path, tmp_path: Path) -> None:
    """The signal goes to everything in the terminal's foreground, and nbdfuse would obey."""
    command = [sys.executable, "-c", IGNORES_CTRL_C + COPIES_THE_DISK, serving.address(raw).uri]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, timeout=60, cwd=tmp_path, env=environment, start_new_session=True)
    assert (tmp_path / "copy").read_bytes() == raw.read_bytes()


@pytest.fixture
def home() -> Iterator[Path]:
    """Nobody's. pytest's own directories are root's alone."""
    with tempfile.TemporaryDirectory(prefix="cm-home-") as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def test_a_user_who_is_not_root_gets_a_file(serving: Serving, raw: Path, tmp_path: Path, home: Path) -> None:
    """With fusermount3. This machine's /dev/fuse may be root's alone: the test gives itself one of its own."""
    (tmp_path / "dev").mkdir()
    script = (
        'mount -t tmpfs -o dev,mode=755 tmpfs "$1" && mknod -m 666 "$1/fuse" c 10 229 && '
        f'mount --bind "$1/fuse" /dev/fuse && exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups {MAY_LOOK} '
        f'-- env CLOUDMANAGER_RUN_DIR=run PYTHONPATH={ROOT} {sys.executable} -c "$2" "$3"'
    )
    uri = serving.address(raw).uri
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path / "dev"), COPIES_THE_DISK, uri]
    subprocess.run(command, check=True, timeout=60, cwd=home)
    assert (home / "copy").read_bytes() == raw.read_bytes()
    assert list((home / "run").iterdir()) == []
