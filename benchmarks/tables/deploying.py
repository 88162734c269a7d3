"""One image onto another machine's disk: the table of the blog post, with what can be had today."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from benchmarks.figures import Quantity, Series
from benchmarks.rig import images, leftovers, readers
from benchmarks.rig.cgroup import Group, group
from benchmarks.rig.network import Network, network
from benchmarks.rig.place import CommandFailed, Place
from benchmarks.rig.relay import relay
from benchmarks.rig.servers import WritableQemuNbd, serving
from benchmarks.rig.service import Service, Tables, running_service
from benchmarks.rig.spending import cpu_seconds_of
from benchmarks.rounds import Attempt, Effort, Measured, take_turns
from benchmarks.section import slug

MIB = 2**20
SPARSE, RANDOM = "sparse", "random"
OURS, OURS_VERIFIED = "cloudmanager deploy", "cloudmanager deploy --verify"
ONCE_IF_SLOWER = 3
RECEIVE_SECONDS = 300
BY_HAND_PORT, NETCAT_PORT = 10890, 10891
SERVICE_PORTS = range(10900, 10908)
COMPRESSORS = {
    "nc": (),
    "gzip -1 | nc": ("gzip", "-1"),
    "lzop | nc": ("lzop",),
    "zstd -1 | nc": ("zstd", "-1", "-q"),
}


@dataclass(frozen=True)
class Link:
    label: str
    megabits: int
    """0: as fast as this machine can."""
    rounds: int
    size_bytes: dict[str, int]
    """Of the image, by its kind: so that rates decide and no program's start, while the slowest take no minutes."""
    delay_seconds: float = 0

    def case(self, kind: str) -> str:
        return f"{kind} image, {self.label}"


UNLIMITED = Link("unlimited link", 0, 3, {SPARSE: 2560 * MIB, RANDOM: 768 * MIB})
FAST = Link("1 Gbit/s", 1000, 2, {SPARSE: 1792 * MIB, RANDOM: 768 * MIB})
SLOW = Link("100 Mbit/s", 100, 2, {SPARSE: 384 * MIB, RANDOM: 96 * MIB})
FAR = Link("1 Gbit/s, 5 ms away", 1000, 2, {SPARSE: 1536 * MIB}, delay_seconds=0.005)
LINKS = (UNLIMITED, FAST, SLOW, FAR)


def measure(effort: Effort) -> Iterator[Series]:
    for link in LINKS:
        with _stand(link) as stand:
            for kind, size_bytes in link.size_bytes.items():
                with _target(stand, link, kind, effort.size(size_bytes)) as target:
                    case, rounds = link.case(kind), effort.rounds(link.rounds)
                    yield from take_turns(case, rounds, _ways(target), once_if_slower=ONCE_IF_SLOWER)


@dataclass(frozen=True)
class _Stand:
    """This machine is the target, and a host beside it has the images."""

    network: Network
    source: Place
    here: Place
    service: Service
    reached_at: str
    """This machine's address for the host."""
    scratch: Path

    @property
    def groups(self) -> tuple[Group, ...]:
        """Both sides' processes, and the service's."""
        return (self.source.group, self.service.place.group)


@contextmanager
def _stand(link: Link) -> Iterator[_Stand]:
    with ExitStack() as cleanup:
        scratch = cleanup.enter_context(leftovers.directory())
        cables = cleanup.enter_context(network(1))
        cables.limit(link.megabits)
        place = Place(cleanup.enter_context(group()))
        near, far = cables.address, cables.far_address if link.delay_seconds else cables.address
        nbd = {"listen": near, "advertise": far, "ports": f"{SERVICE_PORTS[0]}-{SERVICE_PORTS[-1]}", "insecure": True}
        tables: Tables = {"nbd": nbd, "exports": {"drain_seconds": 1}}
        service = cleanup.enter_context(running_service(tables, address=near))
        if link.delay_seconds:
            ports = [BY_HAND_PORT, NETCAT_PORT, service.port, *SERVICE_PORTS]
            cleanup.enter_context(relay(far, near, ports, link.delay_seconds))
        yield _Stand(cables, place.on(cables.hosts[0]), place, service, far, scratch)


@dataclass(frozen=True)
class _Target:
    stand: _Stand
    image: Path
    digest: bytes
    disk: Path
    """Of the machine that is deployed: a file of the size of the image, one hole before each attempt."""
    by_hand: str
    """NBD address of a qemu-nbd for it."""
    ours: Path
    """A second one, for the service: two servers would not both write to one."""

    def attempt(self, write: Callable[[], Measured | None], disk: Path) -> Measured:
        """Until the bytes are durable there. Raises CorruptTarget."""
        with disk.open("r+b") as file:
            file.truncate(0)
            file.truncate(self.image.stat().st_size)
        began = time.perf_counter()
        with cpu_seconds_of(*self.stand.groups) as spent:
            more = write()
        took = time.perf_counter() - began
        if _digest(disk) != self.digest:
            raise CorruptTarget("The target is not what the image is.")
        return {Quantity.SECONDS: took, Quantity.CPU: sum(spent), **(more or {})}


class CorruptTarget(Exception):
    """The image did not arrive: its time means nothing."""


@contextmanager
def _target(stand: _Stand, link: Link, kind: str, size_bytes: int) -> Iterator[_Target]:
    with ExitStack() as cleanup:
        image = images.image(kind, stand.scratch / "image.raw", size_bytes)
        cleanup.callback(image.unlink)
        disk, ours = stand.scratch / "disk.raw", stand.service.images / f"{slug(link.case(kind))}.raw"
        for each in (disk, ours):
            with each.open("wb") as file:
                file.truncate(size_bytes)
            cleanup.callback(each.unlink)
        server = WritableQemuNbd(disk, stand.network.address, BY_HAND_PORT, stand.scratch)
        cleanup.enter_context(serving(server, stand.here))
        yield _Target(stand, image, _digest(image), disk, f"nbd://{stand.reached_at}:{BY_HAND_PORT}/", ours)


def _ways(target: _Target) -> dict[str, Attempt]:
    ways: dict[str, Callable[[_Target], None]] = {
        "dd onto nbdfuse": _dd,
        "nbdcopy": _nbdcopy,
        "qemu-img convert": _qemu_img,
        **{name: partial(_netcat, words=words) for name, words in COMPRESSORS.items()},
    }
    ours: dict[str, Callable[[_Target], Measured]] = {
        OURS: _deploy,
        OURS_VERIFIED: partial(_deploy, options=("--verify",)),
    }
    attempts: dict[str, Attempt] = {
        name: partial(target.attempt, partial(way, target), target.disk) for name, way in ways.items()
    }
    if can_deploy():
        attempts |= {name: partial(target.attempt, partial(way, target), target.ours) for name, way in ours.items()}
    return attempts


def _dd(target: _Target) -> None:
    source = target.stand.source
    with readers.as_file(target.by_hand, source, target.stand.scratch / "mounted") as file:
        source.run(["dd", f"if={target.image}", f"of={file}", "bs=1M", "conv=notrunc,fsync", "status=none"])


def _nbdcopy(target: _Target) -> None:
    target.stand.source.run(["nbdcopy", "--flush", target.image, target.by_hand])


def _qemu_img(target: _Target) -> None:
    words: list[str | Path] = [
        "qemu-img",
        "convert",
        "-n",
        "-W",
        "-m",
        "8",
        "-f",
        "raw",
        "-O",
        "raw",
        target.image,
        target.by_hand,
    ]
    target.stand.source.run(words)


def _netcat(target: _Target, words: Sequence[str]) -> None:
    """Written through a file system's cache, as in the blog post, and then made durable."""
    unpack = f"{words[0]} -dc" if words else "cat"
    write = f"dd of={target.disk} bs=1M iflag=fullblock conv=notrunc,fsync status=none"
    receive = f"nc.openbsd -v -l {target.stand.network.address} {NETCAT_PORT} | {unpack} | {write}"
    with target.stand.here.start(["sh", "-c", receive], stderr=subprocess.PIPE) as receiver:
        assert receiver.stderr
        receiver.stderr.readline()  # `Listening on`
        pack = f"{' '.join(words)} <{target.image}" if words else f"cat {target.image}"
        send = f"nc.openbsd -N {target.stand.reached_at} {NETCAT_PORT}"
        target.stand.source.run(["sh", "-c", f"{pack} | {send}"])
        if receiver.wait(RECEIVE_SECONDS):
            raise CommandFailed([receive], receiver.returncode, receiver.stderr.read().decode())


def _deploy(target: _Target, options: Sequence[str] = ()) -> Measured:
    """To a disk of the other cloudmanager. Which way it chose."""
    service = target.stand.service
    url = f"http://{target.stand.reached_at}:{service.port}"
    asked = {**service.environment, "CLOUDMANAGER_URL": url, "CLOUDMANAGER_TOKEN": service.token}
    said = target.stand.source.run([*DEPLOY, str(target.image), f"local:{target.ours.name}", "--json", *options], asked)
    return {Quantity.COMPRESSED: json.loads(said.splitlines()[-1])["way"] == "compressed"}


DEPLOY = (sys.executable, "-m", "cloudmanager", "deploy")


@cache
def can_deploy() -> bool:
    return subprocess.run([*DEPLOY, "--help"], check=False, capture_output=True).returncode == 0


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
