"""A client whose machine or network is gone gives its connection slot back, in a network that is really cut."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from cloudmanager.core.nbd import listener
from tests.checkout import ROOT
from tests.core.nbd.client import Client
from tests.core.nbd.exporter import ENGINES, Exporter, MiB, Served, device
from tests.core.nbd.test_tls import cipher, key_file, with_key
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces are made by root")
GONE_SECONDS = 2
_READER = """
import sys
sys.path.insert(0, sys.argv[4])
from tests.core.nbd.client import READ, Client
client = Client.greeted(int(sys.argv[2]), sys.argv[3], sys.argv[1])
for _ in range(int(sys.argv[5])):
    client._request(READ, 0, 4 * 1024 * 1024)  # and takes nothing of the answer
print("connected", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Elsewhere:
    """Another machine: a network namespace at the end of a link."""

    namespace: str
    interface: str
    address: str
    """This machine's, as it is reached from there."""

    @contextmanager
    def client(self, served: Served, requests: int) -> Iterator[None]:
        """One that is connected, with so many requests whose answers it does not take."""
        root = str(ROOT)
        arguments = [self.address, str(served.port), served.spec.name, root, str(requests)]
        command = ["ip", "netns", "exec", self.namespace, sys.executable, "-c", _READER, *arguments]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline() == "connected\n"
            yield
            process.kill()

    @contextmanager
    def stuck_reader(self, uri: str) -> Iterator[subprocess.Popen[bytes]]:
        """One of libnbd, which takes no more of what it reads than a pipe holds."""
        command = ["ip", "netns", "exec", self.namespace, "nbdcopy", "--connections=1", uri, "-"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.read(1), "it read nothing"
            yield process
            process.kill()

    def cut(self) -> None:
        """Nothing is delivered any more, and nobody is told."""
        subprocess.run(["ip", "-n", self.namespace, "link", "set", "eth0", "down"], check=True)


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    number = os.getpid()
    network = ipaddress.ip_network("198.18.0.0/16")[number * 4 % 2**16]  # RFC 2544: nobody's
    there = Elsewhere(f"cmv{number}", f"cmv{number}", str(network + 1))
    subprocess.run(["ip", "netns", "add", there.namespace], check=True)
    try:
        ends = ["type", "veth", "peer", "name", "eth0", "netns", there.namespace]
        subprocess.run(["ip", "link", "add", there.interface, *ends], check=True)
        subprocess.run(["ip", "address", "add", f"{there.address}/30", "dev", there.interface], check=True)
        subprocess.run(["ip", "-n", there.namespace, "address", "add", f"{network + 2}/30", "dev", "eth0"], check=True)
        subprocess.run(["ip", "-n", there.namespace, "link", "set", "eth0", "up"], check=True)
        subprocess.run(["ip", "link", "set", there.interface, "up"], check=True)
        yield there
    finally:
        subprocess.run(["ip", "link", "delete", there.interface], check=False)  # it would outlive its namespace a while
        subprocess.run(["ip", "netns", "delete", there.namespace], check=True)


MakeImpatient: TypeAlias = Callable[..., Exporter]


@pytest.fixture
def make_impatient(make_exporter: Callable[..., Exporter], elsewhere: Elsewhere) -> MakeImpatient:
    """One connection for each export, on the link."""
    return partial(
        make_exporter, listen=elsewhere.address, insecure=True, connections=1, client_timeout_seconds=GONE_SECONDS
    )


@pytest.fixture
def impatient(make_impatient: MakeImpatient) -> Exporter:
    return make_impatient()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("requests", [0, 8], ids=["idle", "with answers under way"])
def test_a_client_that_vanished_gives_its_slot_back(
    make_impatient: MakeImpatient, elsewhere: Elsewhere, raw: Path, engine: str, requests: int
) -> None:
    impatient = make_impatient(engine=engine)
    served = impatient.export(device(raw))
    with elsewhere.client(served, requests):
        assert impatient.servers.client_count(served.id) == 1
        elsewhere.cut()
        eventually(lambda: impatient.servers.client_count(served.id) == 0)
        with Client.greeted(served.port, served.spec.name, elsewhere.address) as next_one:
            assert len(next_one.read(0, MiB)) == MiB


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_with_tls_that_vanished_gives_its_slot_back(
    make_impatient: MakeImpatient, elsewhere: Elsewhere, raw: Path, tmp_path: Path, engine: str
) -> None:
    impatient = make_impatient(engine=engine, tls="psk")
    served = impatient.export(device(raw))
    uri = with_key(served.uri, key_file(impatient, served, tmp_path / "keys"))
    with elsewhere.stuck_reader(uri) as reader:
        eventually(lambda: impatient.servers.client_count(served.id) == 1)
        assert reader.poll() is None
        elsewhere.cut()
        eventually(lambda: impatient.servers.client_count(served.id) == 0)
        assert reader.poll() is None, "it hung up itself"
    assert cipher(uri), "the next one is not served"


def test_a_client_that_is_only_idle_keeps_its_slot(impatient: Exporter, elsewhere: Elsewhere, raw: Path) -> None:
    served = impatient.export(device(raw))
    with Client.greeted(served.port, served.spec.name, elsewhere.address) as client:
        eventually(lambda: _probes(client.socket, served.port) or None)
        assert client.read(0, 512) == raw.read_bytes()[:512]


def _probes(client: socket.socket, port: int) -> bool:
    """Whether more seconds have passed since the client last sent than a vanished one is given."""
    from_client = 4 * 11
    information = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int.from_bytes(information[from_client : from_client + 4], sys.byteorder) > 2 * GONE_SECONDS * 1000


def test_a_listener_that_an_earlier_version_made_is_given_the_bound(
    exporter: Exporter, make_exporter: Callable[..., Exporter], raw: Path
) -> None:
    served = exporter.export(device(raw))
    mine = exporter.servers._entries[served.id].listener
    assert mine is not None
    mine.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
    exporter.end()
    later = make_exporter(client_timeout_seconds=77)
    later.adopt(served, served.process)
    taken = later.servers._entries[served.id].listener
    assert taken is not None
    assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 77_000


def test_an_accepted_connection_inherits_the_bound(raw: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listener.give_up_vanished(server, 120)
        with socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert [accepted.getsockopt(socket.IPPROTO_TCP, each) for each in options] == [60, 15, 4, 120_000]
