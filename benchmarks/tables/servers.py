"""NBD servers side by side: one image, in the page cache, for 1, 4 and 16 clients."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.figures import Quantity, Series, rounded
from benchmarks.rig import leftovers, readers
from benchmarks.rig.cgroup import Group, group, memory_mib
from benchmarks.rig.disk import random_image
from benchmarks.rig.execution import ExecutionContext
from benchmarks.rig.network import Network, network
from benchmarks.rig.ports import free_ports
from benchmarks.rig.readers import Source
from benchmarks.rig.servers import (
    Nbdkit,
    NbdServer,
    PlainServer,
    QemuNbd,
    QemuNbdX509,
    StorageDaemon,
    is_installed,
    make_certificates,
    serving,
)
from benchmarks.rig.service import Service, running_service
from benchmarks.rig.spending import cpu_seconds_of
from benchmarks.rounds import Effort, Measured, take_turns

GIB = 2**30
IMAGE_BYTES = {1: GIB, 4: GIB // 2, 16: GIB // 8}
"""By the number of clients: some seconds of reading."""
CLIENTS = tuple(IMAGE_BYTES)
ROUNDS = 3
CONNECT_ROUNDS = 7
OURS, OURS_PSK, OURS_X509 = "cloudmanager", "cloudmanager, TLS PSK", "cloudmanager, TLS x509"
CONNECT = "one connection"
DAEMON = "the daemon alone"
BY_HAND: tuple[type[PlainServer], ...] = (QemuNbd, QemuNbdX509, Nbdkit, NbdServer, StorageDaemon)
LOOK_SECONDS = 0.1


def case(clients: int) -> str:
    return f"{clients} clients" if clients > 1 else "1 client"


def measure(effort: Effort) -> Iterator[Series]:
    """All servers run at the same time, and one at a time has something to do."""
    with _testbed() as testbed:
        for clients, size_bytes in IMAGE_BYTES.items():
            with _servers(testbed, clients, effort.size(size_bytes)) as (image, servers):
                if clients == 1:
                    connects = {name: partial(_connect, testbed, server) for name, server in servers.items()}
                    yield from take_turns(CONNECT, effort.rounds(CONNECT_ROUNDS), connects)
                reads = {name: partial(_read, testbed, server, image) for name, server in servers.items()}
                yield from take_turns(case(clients), effort.rounds(ROUNDS), reads)
        yield Series(DAEMON, OURS, Quantity.MEMORY, rounded([memory_mib(testbed.ours[OURS].pid)]))


@dataclass(frozen=True)
class _Server:
    group: Group
    uris: Sequence[str]
    """One for each client."""


@dataclass(frozen=True)
class _Testbed:
    network: Network
    clients: ExecutionContext
    """On another host."""
    scratch: Path
    ours: Mapping[str, Service]


@contextmanager
def _testbed() -> Iterator[_Testbed]:
    with ExitStack() as cleanup:
        scratch = cleanup.enter_context(leftovers.directory())
        cables = cleanup.enter_context(network(1))
        clients = ExecutionContext(cleanup.enter_context(group())).on(cables.hosts[0])
        make_certificates(scratch, cables.address)
        security: dict[str, dict[str, object]] = {
            OURS: {"insecure": True},
            OURS_PSK: {"tls": "psk"},
            OURS_X509: {"tls": "x509", "tls_certificates": str(scratch / "server")},
        }
        ours = {name: cleanup.enter_context(_ours(cables, nbd)) for name, nbd in security.items()}
        yield _Testbed(cables, clients, scratch, ours)


@contextmanager
def _ours(cables: Network, security: Mapping[str, object]) -> Iterator[Service]:
    nbd = {"listen": cables.address, **security}
    with running_service({"nbd": nbd, "exports": {"drain_seconds": 1}}) as service:
        yield service


@contextmanager
def _servers(testbed: _Testbed, clients: int, size_bytes: int) -> Iterator[tuple[Path, dict[str, _Server]]]:
    """With the image that all of them serve."""
    image = random_image(testbed.scratch / f"{clients}.raw", size_bytes)
    with ExitStack() as cleanup:
        servers = {name: cleanup.enter_context(_exported(testbed, image, name, clients)) for name in testbed.ours}
        for kind in filter(is_installed, BY_HAND):
            servers[kind.name] = cleanup.enter_context(_by_hand(testbed, image, kind, clients))
        yield image, servers
    image.unlink()


@contextmanager
def _exported(testbed: _Testbed, image: Path, name: str, clients: int) -> Iterator[_Server]:
    """Ours has an export for each client, as it is meant to be used."""
    service = testbed.ours[name]
    (service.images / image.name).hardlink_to(image)
    exports = [service.export(f"local:{image.name}", f"client-{each}") for each in range(clients)]
    certificates = testbed.scratch / "client" if name == OURS_X509 else None
    uris = [export.authenticated(testbed.scratch, certificates) for export in exports]
    yield _Server(service.context.group, uris)
    for export in exports:
        service.release(export)


@contextmanager
def _by_hand(testbed: _Testbed, image: Path, kind: type[PlainServer], clients: int) -> Iterator[_Server]:
    """Serves all clients at one address."""
    directory = testbed.scratch / f"{kind.__name__}-{clients}"
    directory.mkdir()
    address = testbed.network.address
    with group() as own:
        with serving(kind(image, address, free_ports(1, address)[0], directory), ExecutionContext(own)) as uri:
            yield _Server(own, [uri] * clients)


def _connect(testbed: _Testbed, server: _Server) -> Measured:
    """Connection, TLS, the NBD handshake, and the client's own start."""
    began = time.perf_counter()
    testbed.clients.run(["nbdinfo", "--size", server.uris[0]])
    return {Quantity.SECONDS: time.perf_counter() - began}


def _read(testbed: _Testbed, server: _Server, image: Path) -> Measured:
    """Each client reads all of the image, with as many connections as nbdcopy likes to have."""
    _warm(image)
    size, clients = image.stat().st_size, len(server.uris)
    began = time.perf_counter()
    with (
        cpu_seconds_of(server.group, testbed.clients.group) as spent,
        _watched_memory(server.group) as largest,
        ThreadPoolExecutor(clients) as pool,
    ):
        list(pool.map(lambda uri: readers.nbdcopy(Source(uri, size), testbed.clients), server.uris))
    took = time.perf_counter() - began
    gib = clients * size / GIB
    return {
        Quantity.RATE: clients * size / took / 1e6,
        Quantity.SERVER_CPU: spent[0] / gib,
        Quantity.CLIENT_CPU: spent[1] / gib,
        Quantity.MEMORY: max(largest),
    }


@contextmanager
def _watched_memory(server: Group) -> Iterator[list[float]]:
    """A list that grows while clients read."""
    seen = [server.memory_mib()]
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(LOOK_SECONDS):
            seen.append(server.memory_mib())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        is_over.set()
        watcher.join()


def _warm(image: Path) -> None:
    with image.open("rb") as file:
        while file.read(2**20):
            pass
