"""Direct reads against reads over NBD: the table of the founding design, with more readers and more columns."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from benchmarks.figures import Quantity, Series
from benchmarks.rig import readers
from benchmarks.rig.guest import KernelClient, kernel_client
from benchmarks.rig.limits import KERNEL_CLIENT_LIMITS, LIMITS, NO_LIMIT, SMALL_MACHINE, possible
from benchmarks.rig.readers import Latency
from benchmarks.rig.stream import stream
from benchmarks.rig.testbed import DIRECT, OURS, Target, testbed
from benchmarks.rounds import Attempt, Effort, Measured, take_turns

SINGLE_TOOLS = ("dd", "nbdcopy", "fio")
ONE_READER = "one reader"
THREE_READERS = "three readers on one client"
TWO_CLIENTS = "one reader on each of two clients"
IMAGE_FILE = "two clients, an image file"
RANDOM_READS = "random 4 KiB reads, one at a time"
KERNEL_CLIENT = "the kernel's client in a virtual machine"
TCP = "a plain TCP stream"
SHARED_ROUNDS = 3
KERNEL_ROUNDS = 3


def measure(effort: Effort) -> Iterator[Series]:
    with testbed(effort) as ready:
        for limit in possible(LIMITS):
            with ready.disk(limit, effort) as target:
                yield from _disk(target, effort)
        for state in ("cold", "cached"):
            with ready.image_file(NO_LIMIT, effort, cold=state == "cold") as target:
                yield from _two_clients(target, f"{IMAGE_FILE}, {state}", effort)
        with kernel_client() as kernel:
            for limit in possible(KERNEL_CLIENT_LIMITS):
                with ready.disk(limit, effort) as target:
                    yield from _kernel_reads(target, kernel, effort)


def _disk(target: Target, effort: Effort) -> Iterator[Series]:
    yield from _one_reader(target, effort)
    if target.limit is not SMALL_MACHINE:
        yield from _three_readers(target, effort)
        yield from _two_clients(target, target.limit.case(TWO_CLIENTS), effort)
    if target.limit is NO_LIMIT:
        yield from _random_reads(target, effort)


def _one_reader(target: Target, effort: Effort) -> Iterator[Series]:
    tools: dict[str, Callable[[Target, str], Measured]] = {"dd": _dd, "nbdcopy": _nbdcopy, "fio": _fio}
    variants = {f"{tool}, {side}": partial(tools[tool], target, side) for tool in SINGLE_TOOLS for side in target.sides}
    yield from take_turns(target.limit.case(ONE_READER), effort.rounds(target.limit.rounds), variants)


def _three_readers(target: Target, effort: Effort) -> Iterator[Series]:
    variants = {f"dd, {side}": partial(_dd, target, side, 3) for side in target.sides}
    yield from take_turns(target.limit.case(THREE_READERS), effort.rounds(SHARED_ROUNDS), variants)


def _two_clients(target: Target, case: str, effort: Effort) -> Iterator[Series]:
    """Beside two dd on the machine that has the disk: two nbdcopy there would throw away what the other one needs."""
    variants: dict[str, Attempt] = {f"dd, {DIRECT}": partial(_dd, target, DIRECT, 2)}
    variants |= {f"nbdcopy, {side}": partial(_nbdcopy, target, side, 2) for side in target.sides if side != DIRECT}
    yield from take_turns(case, effort.rounds(SHARED_ROUNDS), variants)


def _random_reads(target: Target, effort: Effort) -> Iterator[Series]:
    options = readers.random_reads(seconds=1 if effort.is_quick else 4)
    variants = {f"fio, {side}": partial(_random, target, side, options) for side in target.sides}
    yield from take_turns(RANDOM_READS, effort.rounds(3), variants)


def _kernel_reads(target: Target, kernel: KernelClient, effort: Effort) -> Iterator[Series]:
    """`dd` of /dev/nbd0, beside `dd` of the disk; without a limit, beside what the machine's network can do."""
    variants: dict[str, Attempt] = {
        f"dd, {side}": partial(_kernel_dd, target, kernel, side) for side in target.sides if side != DIRECT
    }
    address = target.testbed.network.address
    with stream(address, target.size_bytes) as port:
        if target.limit.bytes_per_second:
            variants[f"dd, {DIRECT}"] = lambda: {Quantity.RATE: _dd(target, DIRECT)[Quantity.RATE]}
        else:
            variants[TCP] = lambda: {Quantity.RATE: kernel.receive(address, port) / 1e6}
        yield from take_turns(target.limit.case(KERNEL_CLIENT), effort.rounds(KERNEL_ROUNDS), variants)


def _dd(target: Target, side: str, count: int = 1) -> Measured:
    """Over NBD through nbdfuse; all readers read the same mount, whose pages they share."""
    context = target.context(side)
    with ExitStack() as cleanup:
        path = target.path
        if side != DIRECT:
            point = target.testbed.scratch / "mounted"
            mount = readers.as_file(target.name(side), context, point, as_client=side == OURS)
            path = cleanup.enter_context(mount)
        read = partial(readers.dd, target.source(path), context)
        return target.attempt(side, count, lambda: _together([read] * count))


def _nbdcopy(target: Target, side: str, count: int = 1) -> Measured:
    """Each reader on a host of its own."""
    reads = [
        partial(readers.nbdcopy, target.source(target.name(side, number)), target.context(side, number))
        for number in range(count)
    ]
    return target.attempt(side, count, lambda: _together(reads))


def _fio(target: Target, side: str, options: Sequence[str] = ()) -> Measured:
    """One request at a time under a limit: with more of them, latency would only say how many are waiting."""
    options = options or readers.sequential(depth=1 if target.limit.bytes_per_second else 8)
    latencies: list[Latency] = []

    def read() -> list[float]:
        rate, latency = readers.fio(target.source(target.name(side)), target.context(side), options)
        latencies.append(latency)
        return [rate]

    measured = target.attempt(side, 1, read)
    (latency,) = latencies
    return {**measured, Quantity.TYPICAL_LATENCY: latency.typical, Quantity.HIGH_LATENCY: latency.high}


def _random(target: Target, side: str, options: Sequence[str]) -> Measured:
    """How much is read, and so the time for a GiB, means nothing here."""
    measured = _fio(target, side, options)
    return {each: measured[each] for each in (Quantity.TYPICAL_LATENCY, Quantity.HIGH_LATENCY)}


def _kernel_dd(target: Target, kernel: KernelClient, side: str) -> Measured:
    uri = target.name(side)
    with kernel.connected(uri):
        measured = target.attempt(side, 1, lambda: [kernel.dd(target.source(uri).skip_bytes)])
    return {each: measured[each] for each in (Quantity.RATE, Quantity.SERVER_CPU)}


def _together(reads: Sequence[Callable[[], float]]) -> list[float]:
    with ThreadPoolExecutor(len(reads)) as pool:
        return [each.result() for each in [pool.submit(read) for read in reads]]
