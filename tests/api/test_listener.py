"""The listening socket."""

import fcntl
import os
import socket
import stat
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloudmanager.api.listener import address_of, listening
from cloudmanager.core.errors import SetupError


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))


def leave_stale(path: Path) -> None:
    """What a service that was killed leaves behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))


@pytest.mark.parametrize(("address", "shown"), [("127.0.0.1:0", "http://127.0.0.1:"), ("[::1]:0", "http://[::1]:")])
def test_port_0_takes_a_free_port_and_names_it(address: str, shown: str) -> None:
    with listening(address) as listener:
        assert address_of(listener) == f"{shown}{listener.getsockname()[1]}"
        assert listener.getsockname()[1] > 0


def test_an_address_in_use_says_what_to_do() -> None:
    with listening("127.0.0.1:0") as listener:
        port = listener.getsockname()[1]
        with (
            pytest.raises(SetupError, match=rf"127\.0\.0\.1:{port} is in use.*server\.listen"),
            listening(f"127.0.0.1:{port}"),
        ):
            pass


@pytest.mark.parametrize(
    ("address", "message"),
    [("192.0.2.1:8600", "not an address of this machine"), ("no.such.host.invalid:8600", "is not known")],
)
def test_an_address_that_cannot_be_had_says_why(address: str, message: str) -> None:
    with pytest.raises(SetupError, match=message), listening(address):
        pass


def test_a_unix_socket_is_private_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "cm.sock"
    before = os.umask(0)
    try:
        with listening(f"unix:{path}") as listener:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert address_of(listener) == f"unix:{path}"
            connect(path)
    finally:
        os.umask(before)
    assert not path.exists()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cm.sock"
    leave_stale(path)
    with listening(f"unix:{path}"):
        connect(path)


def test_a_live_socket_is_never_taken(tmp_path: Path) -> None:
    path = tmp_path / "cm.sock"
    with listening(f"unix:{path}") as live:
        with pytest.raises(SetupError, match="is in use"), listening(f"unix:{path}"):
            pass
        connect(path)
        live.accept()[0].close()


def test_a_live_socket_whose_queue_is_full_is_not_stale(tmp_path: Path) -> None:
    path = tmp_path / "cm.sock"
    with ExitStack() as stack, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy:
        busy.bind(str(path))
        busy.listen(0)
        client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        client.connect(str(path))
        with pytest.raises(SetupError, match="is in use"), listening(f"unix:{path}"):
            pass


def test_two_that_start_at_once_take_turns(tmp_path: Path) -> None:
    """Or both would find the stale socket, and the second would remove the first one's new one."""
    path = tmp_path / "cm.sock"
    leave_stale(path)
    bound = threading.Event()

    def start() -> None:
        with listening(f"unix:{path}"):
            bound.set()

    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    starting = threading.Thread(target=start)
    starting.start()
    assert not bound.wait(0.2)
    os.close(other)
    assert bound.wait(10)
    starting.join(10)


def test_a_socket_that_took_our_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "cm.sock"
    with listening(f"unix:{path}"):
        path.unlink()
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cm.sock"
    if kind == "file":
        path.write_text("precious")
    else:
        path.mkdir()
    with pytest.raises(SetupError, match="is in use"), listening(f"unix:{path}"):
        pass
    assert path.exists()


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(SetupError, match="nowhere, the directory of the socket"),
        listening(f"unix:{tmp_path}/nowhere/s"),
    ):
        pass


def test_a_path_that_is_too_long_for_a_socket_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="107 bytes at most"), listening(f"unix:{tmp_path}/{'x' * 120}"):
        pass
