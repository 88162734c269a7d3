"""One disk that can be read directly, from a server that was started by hand, and from cloudmanager."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from benchmarks.figures import Quantity
from benchmarks.rig import leftovers
from benchmarks.rig.cgroup import Group, Throttle, can_throttle, group, throttle
from benchmarks.rig.disk import disk, make_file_cold, random_image
from benchmarks.rig.execution import ExecutionContext
from benchmarks.rig.limits import GIB, LIMITS, Limit
from benchmarks.rig.network import Network, network
from benchmarks.rig.ports import free_ports
from benchmarks.rig.readers import Source
from benchmarks.rig.servers import QemuNbd, serving
from benchmarks.rig.service import Service, Tables, running_service
from benchmarks.rig.spending import cpu_seconds_of
from benchmarks.rounds import Effort, Measured

DIRECT, PLAIN, OURS = "direct", "qemu-nbd by hand", "cloudmanager"
HOLDERS = ("anna", "ben")
Read = Callable[[], Sequence[float]]
"""Returns the rate of each reader, in bytes per second."""


@dataclass(frozen=True)
class Testbed:
    """The hosts and the servers. A disk's limit holds for who reads it directly, and for the NBD servers."""

    network: Network
    at_disk: ExecutionContext
    """Of who reads directly."""
    clients: ExecutionContext
    by_hand: ExecutionContext
    service: Service
    throttle: Throttle | None
    """None where this machine has none: then no limit is possible."""
    image: Path
    """Random data."""
    scratch: Path

    @contextmanager
    def disk(self, limit: Limit, effort: Effort) -> Iterator["Target"]:
        """The beginning of the image as a block device under the limit, cold for each attempt."""
        with disk(self.image, limit.size(effort)) as made:
            if self.throttle:
                self.throttle.limit(made.number, limit.bytes_per_second)
            with self._served(made.device, f"local:{made.device}") as uris:
                yield Target(self, limit, made.device, made.size_bytes, uris, made.make_cold)

    @contextmanager
    def image_file(self, limit: Limit, effort: Effort, *, cold: bool) -> Iterator["Target"]:
        """A file of its own; in the page cache when it is not `cold`."""
        image = random_image(self.service.images / "random.raw", limit.size(effort))
        prepare = partial(make_file_cold if cold else _warm, image)
        with self._served(image, f"local:{image.name}") as uris:
            yield Target(self, limit, image, image.stat().st_size, uris, prepare)
        image.unlink()

    @contextmanager
    def _served(self, path: Path, name: str) -> Iterator[Mapping[str, Sequence[str]]]:
        """An address for each client. An export of ours is one client's; the other server has one for all."""
        with ExitStack() as cleanup:
            server = QemuNbd(path, self.network.address, free_ports(1, self.network.address)[0], self.scratch)
            plain = cleanup.enter_context(serving(server, self.by_hand))
            exports = [self.service.export(name, holder) for holder in HOLDERS]
            for export in exports:
                cleanup.callback(self.service.release, export)
            yield {PLAIN: [plain] * len(HOLDERS), OURS: [export.uri for export in exports]}


@dataclass(frozen=True)
class Target:
    """What is read: one disk or file, and its NBD addresses."""

    testbed: Testbed
    limit: Limit
    path: Path
    size_bytes: int
    uris: Mapping[str, Sequence[str]]
    """By the side; one for each client."""
    prepare: Callable[[], None]
    """Called before each attempt."""

    @property
    def sides(self) -> tuple[str, ...]:
        """Under a limit the server by hand tells nothing new, and takes its time."""
        return (DIRECT, OURS) if self.limit.bytes_per_second else (DIRECT, PLAIN, OURS)

    def name(self, side: str, client: int = 0) -> str:
        return str(self.path) if side == DIRECT else self.uris[side][client]

    def source(self, name: str | Path) -> Source:
        return Source(str(name), self.size_bytes, self.size_bytes // 4 if self.limit.bytes_per_second else 0)

    def context(self, side: str, client: int = 0) -> ExecutionContext:
        if side == DIRECT:
            return self.testbed.at_disk
        return self.testbed.clients.on(self.testbed.network.hosts[client])

    def attempt(self, side: str, count: int, read: Read) -> Measured:
        """`count` readers of all of it: rates and processor time."""
        self.prepare()
        server, clients = self._server(side), self.testbed.clients.group
        with cpu_seconds_of(server or clients, clients) as spent:
            rates = read()
        gib = count * self.size_bytes / GIB
        return {
            Quantity.RATE: fmean(rates) / 1e6,
            **({Quantity.SLOWEST: min(rates) / 1e6} if count > 1 else {}),
            Quantity.SERVER_CPU: spent[0] / gib if server else 0.0,
            Quantity.CLIENT_CPU: spent[1] / gib,
        }

    def _server(self, side: str) -> Group | None:
        return {DIRECT: None, PLAIN: self.testbed.by_hand.group, OURS: self.testbed.service.context.group}[side]


@contextmanager
def testbed(effort: Effort) -> Iterator[Testbed]:
    with ExitStack() as cleanup:
        scratch = cleanup.enter_context(leftovers.directory())
        cables = cleanup.enter_context(network(len(HOLDERS)))
        limiter = cleanup.enter_context(throttle()) if can_throttle() else None
        clients, by_hand, ours = (cleanup.enter_context(group()) for _ in range(3))
        image = random_image(scratch / "random.raw", max(limit.size(effort) for limit in LIMITS))
        tables: Tables = {"nbd": {"listen": cables.address, "insecure": True}, "exports": {"drain_seconds": 1}}
        service = cleanup.enter_context(running_service(tables, context=ExecutionContext(ours, limiter)))
        at_disk, hand = ExecutionContext(clients, limiter), ExecutionContext(by_hand, limiter)
        yield Testbed(cables, at_disk, ExecutionContext(clients), hand, service, limiter, image, scratch)


def _warm(image: Path) -> None:
    with image.open("rb") as file:
        while file.read(2**20):
            pass
