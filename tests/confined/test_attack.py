"""What runs in the sandbox can do what a server has to, and nothing else: a hostile program tries."""

from __future__ import annotations

import os
import platform
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudmanager.confined import Confinement, Spawner
from tests.confined.runs import PYTHON, opened, run
from tests.loop_devices import loop_device

ATTACK = Path(__file__).with_name("attack.py").read_text()
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"A" * 1024 * 1024)
    return path


@pytest.fixture
def node(image: Path) -> Iterator[Path]:
    """A block device, with the mode that the machine gives it."""
    with loop_device(image) as device:
        yield device


@as_root
def test_a_hostile_program_gets_nowhere(confining: Spawner, node: Path, image: Path, tmp_path: Path) -> None:
    before, null = node.stat(), Path("/dev/null").stat()
    other = tmp_path / "other.raw"
    other.write_bytes(b"B" * 4096)

    def prepare(confinement: Confinement) -> dict[str, str]:
        with opened(node) as device, opened(other) as file:
            return {"NODE": confinement.show(device, str(node)), "FILE": confinement.show(file, str(other))}

    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as service:
        with socket.create_connection(listener.getsockname()):
            command = [PYTHON, "-c", ATTACK, str(service.getsockname()[1]), "NODE", "FILE"]
            ended = run(confining, command, prepare, listener.fileno())
        service.settimeout(0)
        with pytest.raises(BlockingIOError):
            service.accept()
    *succeeded, last = ended.output.splitlines()
    assert succeeded == []
    assert int(last.partition(" ")[0]) > 150
    after = node.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime) == (before.st_mode, before.st_uid, before.st_mtime)
    assert (stat.S_IMODE(null.st_mode), null.st_uid) == (0o666, 0)
    assert (image.read_bytes(), other.read_bytes()) == (b"A" * 1024 * 1024, b"B" * 4096)


FOREIGN_CALLS = {
    "x32": "import ctypes; ctypes.CDLL(None).syscall(0x40000000 | 39)",
    "32 bits": (
        "import ctypes, mmap\n"
        "code = mmap.mmap(-1, 4096, prot=7)\n"
        "code.write(bytes.fromhex('b814000000cd80c3'))\n"  # getpid, by the old interrupt
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()"
    ),
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="another processor has other conventions")
@pytest.mark.parametrize("convention", FOREIGN_CALLS)
def test_a_call_in_another_convention_of_the_processor_ends_the_program(confining: Spawner, convention: str) -> None:
    ended = run(confining, [PYTHON, "-c", FOREIGN_CALLS[convention] + "; print('survived')"])
    assert "survived" not in ended.output
    assert ended.status in {-signal.SIGSYS, 128 + signal.SIGSYS, -signal.SIGSEGV, 128 + signal.SIGSEGV}


def test_an_unknown_call_is_said_not_to_exist(confining: Spawner) -> None:
    """So that a newer library goes another way, where an end of the program would cost an export."""
    program = "import ctypes, errno; c = ctypes.CDLL(None, use_errno=True); print(c.syscall(9999), ctypes.get_errno())"
    assert run(confining, [PYTHON, "-c", program]).output.split() == ["-1", "38"]


def test_it_has_no_network(confining: Spawner) -> None:
    output = run(confining, [PYTHON, "-c", "import os; print(os.listdir('/'), os.environ)"]).output
    assert "'sys'" not in output
    assert "HOME" not in output
