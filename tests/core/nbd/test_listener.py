"""Ports are given out in turn, clients are refused when an export ends, and addresses are written as they must be."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloudmanager.core.errors import PortsExhausted, ServerFailed
from tests.core.nbd.client import Client
from tests.core.nbd.exporter import Exporter, device


@pytest.fixture
def free() -> Iterator[range]:
    """Eight neighbouring ports that nobody uses."""
    for first in range(22000, 23000, 8):
        with ExitStack() as taken:
            try:
                for port in range(first, first + 8):
                    listener = taken.enter_context(socket.socket())
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.bind(("127.0.0.1", port))
                    listener.listen()
            except OSError:
                continue
        yield range(first, first + 8)
        return


def text(ports: range) -> str:
    return f"{ports[0]}-{ports[-1]}"


def test_a_port_is_not_used_again_soon(make_exporter: Callable[..., Exporter], free: range) -> None:
    servers = make_exporter(ports=text(free)).servers
    used = []
    for _ in free:
        used.append(servers.reserve("export"))
        servers.stop("export")
    assert sorted(used) == list(free)


def test_when_no_port_is_free_the_setting_is_named(make_exporter: Callable[..., Exporter], free: range) -> None:
    servers = make_exporter(ports=text(free)).servers
    for port in free:
        servers.reserve(str(port))
    with pytest.raises(PortsExhausted, match=r"\[nbd\] ports") as caught:
        servers.reserve("one more")
    assert caught.value.retriable
    servers.stop(str(free[3]))
    assert servers.reserve("one more") in free
    for port in free:
        servers.stop(str(port))
    servers.stop("one more")


def test_a_port_that_another_program_uses_is_passed_over(make_exporter: Callable[..., Exporter], free: range) -> None:
    servers = make_exporter(ports=text(free)).servers
    with socket.create_server(("127.0.0.1", free[0])):
        given = {servers.reserve(str(number)) for number in range(7)}
        assert given == set(free) - {free[0]}
        with pytest.raises(PortsExhausted, match=f"Port {free[0]} of this export is used by another program"):
            servers.reserve("that one", free[0])
    for number in range(7):
        servers.stop(str(number))


def test_threads_are_given_different_ports(make_exporter: Callable[..., Exporter], free: range) -> None:
    servers = make_exporter(ports=text(free)).servers
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(servers.reserve, map(str, range(8)))) == list(free)
    for number in range(8):
        servers.stop(str(number))


def test_an_export_keeps_its_listener(exporter: Exporter) -> None:
    port = exporter.servers.reserve("export")
    assert exporter.servers.reserve("export") == port
    assert exporter.servers.reserve("export", port + 1) == port
    exporter.servers.stop("export")


def test_an_address_of_another_machine_is_said(make_exporter: Callable[..., Exporter]) -> None:
    exporter = make_exporter(listen="192.0.2.1", insecure=True)
    with pytest.raises(ServerFailed, match=r"Cannot listen on 192\.0\.2\.1 .*\[nbd\]"):
        exporter.servers.reserve("export")


def test_refused_clients_are_refused_at_once_and_the_connected_go_on(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    with served.connect() as client:
        exporter.servers.refuse_clients(served.id)
        exporter.servers.refuse_clients(served.id)
        with pytest.raises(ConnectionRefusedError):
            served.connect()
        assert client.read(0, 512) == raw.read_bytes()[:512]
        assert exporter.servers.client_count(served.id) == 1


def test_a_draining_server_is_idle(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    with served.connect():
        exporter.servers.refuse_clients(served.id)
        before = processor_seconds(served.pid)
        time.sleep(0.5)  # nothing happens that could be waited for: that is the point
        assert processor_seconds(served.pid) - before < 0.1


def test_clients_are_counted(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    assert exporter.servers.client_count("never-heard-of") == 0
    with served.connect(), served.connect():
        assert exporter.servers.client_count(served.id) == 2
    deadline = time.monotonic() + 10
    while exporter.servers.client_count(served.id) and time.monotonic() < deadline:
        time.sleep(0.01)  # the server tells nobody that it has closed a connection
    assert exporter.servers.client_count(served.id) == 0


def test_the_limit_on_connections_holds(make_exporter: Callable[..., Exporter], raw: Path) -> None:
    served = make_exporter(connections=2, engine="qemu-nbd").export(device(raw))
    with served.connect(), served.connect(), Client(served.port, served.spec.name, timeout=0.3) as third:
        with pytest.raises(TimeoutError):
            third.go()


def test_a_handshake_does_not_wait_for_delayed_acknowledgements(exporter: Exporter, raw: Path) -> None:
    served = exporter.export(device(raw))
    times = []
    for _ in range(20):
        started = time.monotonic()
        served.connect().close()
        times.append(time.monotonic() - started)
    assert sorted(times)[5] < 0.02


@pytest.mark.parametrize(
    ("listen", "reached"), [("::1", "::1"), ("::", "::1"), ("::", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")]
)
def test_other_addresses_are_listened_on(
    make_exporter: Callable[..., Exporter], raw: Path, listen: str, reached: str
) -> None:
    served = make_exporter(listen=listen, insecure=True).export(device(raw))
    with Client.greeted(served.port, served.spec.name, reached) as client:
        assert len(client.read(0, 512)) == 512


@pytest.mark.parametrize(
    ("settings", "uri"),
    [
        ({}, "nbd://127.0.0.1:10900/name"),
        ({"listen": "::1"}, "nbd://[::1]:10900/name"),
        ({"advertise": "disks.example", "tls": "psk"}, "nbds://disks.example:10900/name"),
        ({"advertise": "2001:db8::7", "tls": "psk"}, "nbds://[2001:db8::7]:10900/name"),
        ({"advertise": "fe80::7%eth0", "tls": "psk"}, "nbds://[fe80::7%25eth0]:10900/name"),
    ],
)
def test_an_address_is_written_for_clients(
    make_exporter: Callable[..., Exporter], settings: dict[str, str], uri: str
) -> None:
    assert make_exporter(**settings).servers.uri("name", 10900) == uri


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
