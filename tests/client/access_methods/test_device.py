"""What the device way does before the kernel takes over. The kernel itself needs a virtual machine: tests/vm."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloudmanager.client import access_methods
from cloudmanager.client.access_methods import kernel_device
from cloudmanager.client.access_methods.endpoint import ProgramEndpoint
from cloudmanager.client.access_methods.errors import AccessFailed, NotPossibleHere
from cloudmanager.client.access_methods.kernel_device import negotiate
from cloudmanager.client.access_methods.nbd_driver import ConnectedDevice, ConnectionUnread
from cloudmanager.client.address import NbdAddress
from cloudmanager.core.model import Access
from cloudmanager.transfer.negotiation import FLAG_CAN_MULTI_CONN, FLAG_READ_ONLY
from tests.client.access_methods.serving import Serving

SECONDS = 20.0


def connect(address: NbdAddress, connections: int = 1, seconds: float = SECONDS) -> tuple[int, int, int]:
    """Size, flags and the number of connections."""
    with ExitStack() as undo:
        served, sockets = kernel_device._connect(undo, ProgramEndpoint.of(address), connections, seconds)
        assert all(each.gettimeout() is None for each in sockets)
        return served.size_bytes, served.flags, len(sockets)


@pytest.mark.parametrize(("access", "is_read_only"), [(Access.READ_ONLY, True), (Access.SCRATCH, False)])
def test_the_server_says_how_large_the_disk_is_and_whether_it_may_be_written(
    serving: Serving, raw: Path, access: Access, is_read_only: bool
) -> None:
    size, flags, _ = connect(serving.address(raw, access))
    assert size == raw.stat().st_size
    assert bool(flags & FLAG_READ_ONLY) == is_read_only


def test_as_many_connections_are_made_as_asked_for(serving: Serving, raw: Path) -> None:
    _, flags, count = connect(serving.address(raw), connections=4)
    assert flags & FLAG_CAN_MULTI_CONN
    assert count == 4


def test_where_others_have_the_places_fewer_connections_do(make_serving: Callable[..., Serving], raw: Path) -> None:
    assert connect(make_serving(connections=2, engine="qemu-nbd").address(raw), connections=3)[2] == 2


def test_where_the_kernel_leaves_a_connection_unread_it_is_connected_anew_and_at_last_with_one(
    serving: Serving, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Sequence[socket.socket]] = []

    class Driver:
        """Of a kernel that never listens on a second connection."""

        path = Path("/dev/nbd0")

        def __init__(self, attachment: ConnectedDevice, _ready_seconds: float) -> None:
            tried.append(attachment.connections)
            if len(attachment.connections) > 1:
                raise ConnectionUnread("it does not listen")

        def disconnect(self) -> None: ...

        def partitions(self) -> dict[int, Path]:
            return {}

    monkeypatch.setattr(kernel_device, "Nbd", Driver)
    wish = kernel_device._ConnectionPlan(ProgramEndpoint.of(serving.address(raw)), None, False, SECONDS, 1, 4096)
    with ExitStack() as undo:
        assert kernel_device._connected(undo, wish, 2).size_bytes == raw.stat().st_size
        assert [len(connections) for connections in tried] == [2, 2, 1]
        assert [connection.fileno() >= 0 for connections in tried for connection in connections] == [False] * 4 + [True]


def test_a_name_that_is_not_served_is_refused_in_the_servers_words(
    make_serving: Callable[..., Serving], raw: Path
) -> None:
    serving = make_serving(engine="qemu-nbd")
    with pytest.raises(AccessFailed, match="not present"):
        connect(NbdAddress(f"{serving.address(raw).uri}-other"))


def test_an_address_that_nobody_listens_at_is_an_error() -> None:
    with pytest.raises(AccessFailed, match="cannot be reached"):
        connect(NbdAddress("nbd://127.0.0.1:1/disk"))


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(AccessFailed, match="timed out"):
            connect(NbdAddress(f"nbd://127.0.0.1:{silent.getsockname()[1]}/disk"), seconds=0.1)


@pytest.mark.parametrize(
    "output",
    [
        b"SSH-2.0-OpenSSH_9.2p1 Debian",
        b"NBDMAGICIHAVEOPT\0\3" + bytes(20),
        b"NBDMAGICIHAVEOPT\0\3" + bytes.fromhex("0003e889045565a9 00000007 00000003 ffffffff"),
        b"NBDMAGICIHAVEOPT\0\3" + bytes.fromhex("0003e889045565a9 00000007 00000001 00000000"),
    ],
    ids=["another protocol", "no reply", "a reply of 4 GiB", "no size"],
)
def test_a_server_that_talks_nonsense_is_an_error(output: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(SECONDS)
        theirs.sendall(output)
        with pytest.raises(AccessFailed):
            negotiate(ours, "disk")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("nbd://host/name", ProgramEndpoint("host", 10809, None, "name", False)),
        ("nbd://[::1]:10900/a%20b/c", ProgramEndpoint("::1", 10900, None, "a b/c", False)),
        ("nbds://user@host:1/", ProgramEndpoint("host", 1, None, "", True)),
        ("nbd+unix:///name?socket=/run/a%20b", ProgramEndpoint("localhost", 10809, "/run/a b", "name", False)),
    ],
)
def test_addresses_are_understood(uri: str, expected: ProgramEndpoint) -> None:
    assert ProgramEndpoint.of(NbdAddress(uri)) == expected


@pytest.mark.skipif(Path("/sys/block/nbd0").exists(), reason="this kernel has NBD devices")
def test_without_the_module_it_says_what_to_do(serving: Serving, raw: Path) -> None:
    with pytest.raises(NotPossibleHere, match="modprobe nbd"), access_methods.device(serving.address(raw)):
        pass
