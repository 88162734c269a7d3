"""The control plane: from a request to a served disk, one and hundreds; a restart; what the clouds are asked."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from benchmarks.figures import Quantity, Series, rounded
from benchmarks.rig import readers
from benchmarks.rig.by_shell import ByShell, by_shell
from benchmarks.rig.cgroup import group, memory_mib
from benchmarks.rig.clouds import INSTANCE, NAMES, cloud
from benchmarks.rig.disk import random_image
from benchmarks.rig.execution import ExecutionContext
from benchmarks.rig.ports import free_ports
from benchmarks.rig.readers import Source
from benchmarks.rig.servers import QemuNbd, serving
from benchmarks.rig.service import Export, Service, Tables, running_service
from benchmarks.rounds import Attempt, Effort, Measured, take_turns

MIB = 2**20
OURS, PLAIN = "cloudmanager", "qemu-nbd by hand"
ONE = "request to ready, one at a time"
CACHED_READ = "reading a cached image with nbdcopy"
IDLE = "10 idle seconds with 100 exports"
ATTACH, DETACH = "from the request to ready", "from the release to detached"
CLIENTS = 16
HUNDRED, FIVE_HUNDRED = 100, 500
IDLE_SECONDS = 10


def many(count: int) -> str:
    return f"{count} exports by {CLIENTS} clients"


def held(count: int) -> str:
    return f"{count} exports held"


def restart(count: int) -> str:
    return f"killed and started again with {count} exports"


def measure(effort: Effort) -> Iterator[Series]:
    with running_service({"exports": {"drain_seconds": 1}}) as service:
        small = random_image(service.images / "small.raw", 16 * MIB)
        with by_shell(small) as shell:
            yield from _one_at_a_time(service, shell, effort)
            for count, rounds in ((HUNDRED, 5), (FIVE_HUNDRED, 3)):
                yield from _many(service, shell, effort.count(count), many(count), effort.rounds(rounds))
        yield from _cached_read(service, effort)
        with _holding(service, effort.count(HUNDRED)):
            yield from _footprint(service, HUNDRED)
            yield _idle(service, effort)
        with _holding(service, effort.count(FIVE_HUNDRED)):
            yield from _footprint(service, FIVE_HUNDRED)
            again: dict[str, Attempt] = {OURS: partial(_restarted, service)}
            yield from take_turns(restart(FIVE_HUNDRED), effort.rounds(3), again)
    for kind in NAMES:
        yield from _calls(kind, effort)


def _one_at_a_time(service: Service, shell: ByShell, effort: Effort) -> Iterator[Series]:
    def ours() -> Measured:
        began = time.perf_counter()
        made = _export(service)
        took = time.perf_counter() - began
        service.release(made)
        return {Quantity.SECONDS: took}

    def plain() -> Measured:
        took = shell.start_one()
        shell.stop_all()
        return {Quantity.SECONDS: took}

    yield from take_turns(ONE, effort.count(50), {OURS: ours, PLAIN: plain})


def _many(service: Service, shell: ByShell, count: int, case: str, rounds: int) -> Iterator[Series]:
    def ours() -> Measured:
        before, began = cpu_seconds(service.pid), time.perf_counter()
        made = _exports(service, count)
        took = time.perf_counter() - began
        spent = cpu_seconds(service.pid) - before
        release_all(service, made)
        return {Quantity.SECONDS: took, Quantity.CPU: spent}

    def plain() -> Measured:
        took = shell.start_many(count, CLIENTS)
        shell.stop_all()
        return {Quantity.SECONDS: took}

    yield from take_turns(case, rounds, {OURS: ours, PLAIN: plain})


def _cached_read(service: Service, effort: Effort) -> Iterator[Series]:
    """Both servers on loopback. The first round of each is for the page cache, and left out."""
    image = random_image(service.images / "large.raw", effort.size(2**30))
    server = QemuNbd(image, "127.0.0.1", free_ports(1)[0], service.directory)
    with group() as by_hand, group() as clients, serving(server, ExecutionContext(by_hand)) as plain:
        made = service.export(f"local:{image.name}")
        size = image.stat().st_size

        def read(uri: str) -> Measured:
            return {Quantity.RATE: readers.nbdcopy(Source(uri, size), ExecutionContext(clients)) / 1e6}

        variants: dict[str, Attempt] = {OURS: partial(read, made.uri), PLAIN: partial(read, plain)}
        for attempt in variants.values():
            attempt()
        yield from take_turns(CACHED_READ, effort.rounds(9), variants)
        service.release(made)


def _footprint(service: Service, count: int) -> Iterator[Series]:
    servers = service.context.group.memory_mib() - memory_mib(service.pid)
    yield Series(held(count), "the daemon, resident", Quantity.MEMORY, rounded([resident_mib(service.pid)]))
    yield Series(held(count), "all servers, proportional", Quantity.MEMORY, rounded([servers]))


def _idle(service: Service, effort: Effort) -> Series:
    before = cpu_seconds(service.pid)
    time.sleep(1 if effort.is_quick else IDLE_SECONDS)
    return Series(IDLE, OURS, Quantity.CPU, rounded([cpu_seconds(service.pid) - before]))


def _restarted(service: Service) -> Measured:
    """Killed, and started until it is ready. Its servers are the same ones afterwards."""
    service.kill()
    before = set(service.context.group.pids)
    began = time.perf_counter()
    service.start()
    took = time.perf_counter() - began
    assert before <= set(service.context.group.pids), "servers were lost"
    states = [each["state"] for each in _items(service)]
    assert states.count("ready") == len(states), states
    return {Quantity.SECONDS: took}


def _items(service: Service) -> list[dict[str, str]]:
    """The exports that are not over."""
    query: dict[str, str | int] = {"state": "ready", "limit": 1000}
    found: list[dict[str, str]] = service.client.get("/v1/exports", params=query).raise_for_status().json()["items"]
    return found


def _calls(kind: str, effort: Effort) -> Iterator[Series]:
    """At the pace of the real cloud, as the emulator knows it."""
    with cloud(kind, pace=0.0 if effort.is_quick else 1.0) as emulated:
        tables: Tables = {"providers.cloud": emulated.provider_settings(INSTANCE), "exports": {"drain_seconds": 1}}
        disk = emulated.make_disk("evidence-7", size_bytes=64 * MIB)
        with running_service(tables, environment=emulated.environment(INSTANCE)) as service:
            (found,) = service.client.get("/v1/disks", params={"provider": "cloud", "q": "evidence"}).json()["items"]
            emulated.calls.clear()
            began = time.perf_counter()
            made = service.export(found["id"])
            took = time.perf_counter() - began
            yield Series(ATTACH, NAMES[kind], Quantity.CALLS, (float(len(emulated.calls)),))
            yield Series(ATTACH, NAMES[kind], Quantity.SECONDS, rounded([took]))
            emulated.calls.clear()
            service.release(made)
            while emulated.holders(disk) or service.client.get("/v1/attachments").json()["items"]:
                time.sleep(0.05)
            yield Series(DETACH, NAMES[kind], Quantity.CALLS, (float(len(emulated.calls)),))


def _export(service: Service) -> Export:
    return service.export("local:small.raw")


def _exports(service: Service, count: int) -> list[Export]:
    return request_all(service, ["local:small.raw"] * count)


def request_all(service: Service, disks: Sequence[str]) -> list[Export]:
    """An export of each, by several clients at once. Returns when all are ready."""
    with ExitStack() as stack, ThreadPoolExecutor(CLIENTS) as pool:
        free: SimpleQueue[Callable[[str], Export]] = SimpleQueue()
        for _ in range(CLIENTS):
            free.put(stack.enter_context(service.connected()))

        def ask(disk: str) -> Export:
            client = free.get()
            try:
                return client(disk)
            finally:
                free.put(client)

        return list(pool.map(ask, disks))


def release_all(service: Service, made: list[Export]) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(service.release, made))


@contextmanager
def _holding(service: Service, count: int) -> Iterator[None]:
    made = _exports(service, count)
    yield
    release_all(service, made)


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
