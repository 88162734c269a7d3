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
from benchmarks.rig.execution import CommandFailed, ExecutionContext
from benchmarks.rig.network import Network, network
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
        with _testbed(link) as testbed:
            for kind, size_bytes in link.size_bytes.items():
                with _target(testbed, link, kind, effort.size(size_bytes)) as target:
                    case, rounds = link.case(kind), effort.rounds(link.rounds)
                    yield from take_turns(case, rounds, _ways(target), once_if_slower=ONCE_IF_SLOWER)


@dataclass(frozen=True)
class _Testbed:
    """This machine is the target, and a host beside it has the images."""

    network: Network
    source: ExecutionContext
    here: ExecutionContext
    service: Service
    reached_at: str
    """This machine's address for the host."""
    scratch: Path

    @property
    def groups(self) -> tuple[Group, ...]:
        """Both sides' processes, and the service's."""
        return (self.source.group, self.service.context.group)


@contextmanager
def _testbed(link: Link) -> Iterator[_Testbed]:
    with ExitStack() as cleanup:
        scratch = cleanup.enter_context(leftovers.directory())
        cables = cleanup.enter_context(network(1))
        cables.limit(link.megabits)
        context = ExecutionContext(cleanup.enter_context(group()))
        near, far = cables.address, cables.far_address if link.delay_seconds else cables.address
        nbd = {"listen": near, "advertise": far, "ports": f"{SERVICE_PORTS[0]}-{SERVICE_PORTS[-1]}", "insecure": True}
        tables: Tables = {"nbd": nbd, "exports": {"drain_seconds": 1}}
        service = cleanup.enter_context(running_service(tables, address=near))
        if link.delay_seconds:
            ports = [BY_HAND_PORT, NETCAT_PORT, service.port, *SERVICE_PORTS]
            cleanup.enter_context(relay(far, near, ports, link.delay_seconds))
        yield _Testbed(cables, context.on(cables.hosts[0]), context, service, far, scratch)


@dataclass(frozen=True)
class _Target:
    testbed: _Testbed
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
        with cpu_seconds_of(*self.testbed.groups) as spent:
            more = write()
        took = time.perf_counter() - began
        if _digest(disk) != self.digest:
            raise CorruptTarget("The target is not what the image is.")
        return {Quantity.SECONDS: took, Quantity.CPU: sum(spent), **(more or {})}


class CorruptTarget(Exception):
    """The image did not arrive: its time means nothing."""


@contextmanager
def _target(testbed: _Testbed, link: Link, kind: str, size_bytes: int) -> Iterator[_Target]:
    with ExitStack() as cleanup:
        image = images.image(kind, testbed.scratch / "image.raw", size_bytes)
        cleanup.callback(image.unlink)
        disk, ours = testbed.scratch / "disk.raw", testbed.service.images / f"{slug(link.case(kind))}.raw"
        for each in (disk, ours):
            with each.open("wb") as file:
                file.truncate(size_bytes)
            cleanup.callback(each.unlink)
        server = WritableQemuNbd(disk, testbed.network.address, BY_HAND_PORT, testbed.scratch)
        cleanup.enter_context(serving(server, testbed.here))
        yield _Target(testbed, image, _digest(image), disk, f"nbd://{testbed.reached_at}:{BY_HAND_PORT}/", ours)


def _ways(target: _Target) -> dict[str, Attempt]:
    variants: dict[str, Callable[[_Target], None]] = {
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
        name: partial(target.attempt, partial(variant, target), target.disk) for name, variant in variants.items()
    }
    if can_deploy():
        attempts |= {
            name: partial(target.attempt, partial(variant, target), target.ours) for name, variant in ours.items()
        }
    return attempts


def _dd(target: _Target) -> None:
    source = target.testbed.source
    with readers.as_file(target.by_hand, source, target.testbed.scratch / "mounted") as file:
        source.run(["dd", f"if={target.image}", f"of={file}", "bs=1M", "conv=notrunc,fsync", "status=none"])


def _nbdcopy(target: _Target) -> None:
    target.testbed.source.run(["nbdcopy", "--flush", target.image, target.by_hand])


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
    target.testbed.source.run(words)


def _netcat(target: _Target, words: Sequence[str]) -> None:
    """Written through a file system's cache, as in the blog post, and then made durable."""
    unpack = f"{words[0]} -dc" if words else "cat"
    write = f"dd of={target.disk} bs=1M iflag=fullblock conv=notrunc,fsync status=none"
    receive = f"nc.openbsd -v -l {target.testbed.network.address} {NETCAT_PORT} | {unpack} | {write}"
    with target.testbed.here.start(["sh", "-c", receive], stderr=subprocess.PIPE) as receiver:
        assert receiver.stderr
        receiver.stderr.readline()  # `Listening on`
        pack = f"{' '.join(words)} <{target.image}" if words else f"cat {target.image}"
        send = f"nc.openbsd -N {target.testbed.reached_at} {NETCAT_PORT}"
        target.testbed.source.run(["sh", "-c", f"{pack} | {send}"])
        if receiver.wait(RECEIVE_SECONDS):
            raise CommandFailed([receive], receiver.returncode, receiver.stderr.read().decode())


def _deploy(target: _Target, options: Sequence[str] = ()) -> Measured:
    """To a disk of the other cloudmanager. Which route it chose."""
    service = target.testbed.service
    url = f"http://{target.testbed.reached_at}:{service.port}"
    asked = {**service.environment, "CLOUDMANAGER_URL": url, "CLOUDMANAGER_TOKEN": service.token}
    output = target.testbed.source.run(
        [*DEPLOY, str(target.image), f"local:{target.ours.name}", "--json", *options], asked
    )
    return {Quantity.COMPRESSED: json.loads(output.splitlines()[-1])["route"] == "compressed"}


DEPLOY = (sys.executable, "-m", "cloudmanager", "deploy")


@cache
def can_deploy() -> bool:
    return subprocess.run([*DEPLOY, "--help"], check=False, capture_output=True).returncode == 0


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
