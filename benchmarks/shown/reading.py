"""The founding design's table."""

from collections.abc import Iterator

from benchmarks.figures import Figures, Quantity
from benchmarks.rig.limits import (
    EMULATED,
    EMULATED_LIMITED,
    KERNEL_CLIENT_LIMITS,
    LARGE_MACHINE,
    LIMITS,
    NO_LIMIT,
    SMALL_MACHINE,
)
from benchmarks.rig.testbed import DIRECT, OURS, PLAIN
from benchmarks.section import Chart, Section, sentence_case, significant, slug, value
from benchmarks.tables.reading import (
    IMAGE_FILE,
    KERNEL_CLIENT,
    ONE_READER,
    RANDOM_READS,
    SINGLE_TOOLS,
    TCP,
    THREE_READERS,
    TWO_CLIENTS,
)

AS_FAST = 0.995
"""What the document calls no limit: it found 0.979 and 0.974."""
SHARED = 0.9
"""From here on nobody can have been given a part only."""
ALIKE = 1.05
SIDES = (DIRECT, PLAIN, OURS)
LIMITED = (SMALL_MACHINE.case(ONE_READER), LARGE_MACHINE.case(ONE_READER))
KERNEL_LIMITED = EMULATED_LIMITED.case(KERNEL_CLIENT)
NOT_LIMITED = "A limited disk was not measured: that needs cgroup version 1."
SEVERAL = tuple(limit.case(what) for limit in (LARGE_MACHINE, NO_LIMIT) for what in (THREE_READERS, TWO_CLIENTS))


def meaning(figures: Figures) -> str:
    limited = [_limited(figures), _shared(figures)] if figures.has(LIMITED[0]) else [NOT_LIMITED]
    if figures.has(KERNEL_LIMITED):
        limited.insert(1, _by_kernel(figures))
    return " ".join([*limited, _unlimited(figures), _as_file(figures)])


def _limited(figures: Figures) -> str:
    lowest = min(_of_direct(figures, case, f"{tool}, {OURS}") for case in LIMITED for tool in SINGLE_TOOLS)
    rates = f"{SMALL_MACHINE.label} and {LARGE_MACHINE.label}"
    if lowest >= AS_FAST:
        return (
            f"A disk that a cloud limits to {rates} is read over NBD as fast as directly: at least {lowest:.3f} of it."
        )
    return f"A disk that a cloud limits to {rates} is read over NBD at {lowest:.3f} of the direct rate or more."


def _by_kernel(figures: Figures) -> str:
    part = figures.ratio(KERNEL_LIMITED, Quantity.RATE, f"dd, {OURS}", f"dd, {DIRECT}")
    return (
        f"The kernel's own client, in an emulated machine, reads a disk of {EMULATED_LIMITED.label} at {part:.3f} of "
        "the direct rate."
    )


def _shared(figures: Figures) -> str:
    alone = figures.median(LARGE_MACHINE.case(ONE_READER), f"dd, {DIRECT}", Quantity.RATE)
    two, three = (
        figures.median(LARGE_MACHINE.case(case), f"{tool}, {OURS}", Quantity.SLOWEST) / alone
        for case, tool in ((TWO_CLIENTS, "nbdcopy"), (THREE_READERS, "dd"))
    )
    start = (
        f"Two clients that read it at the same time get {two:.2f} of its rate each, three readers on one client "
        f"{three:.2f}"
    )
    return f"{start}: the disk is read once for all of them." if min(two, three) > SHARED else f"{start}."


def _unlimited(figures: Figures) -> str:
    case = NO_LIMIT.case(ONE_READER)
    fastest = max(figures.median(case, f"{tool}, {OURS}", Quantity.RATE) for tool in SINGLE_TOOLS)
    direct = max(figures.median(case, f"{tool}, {DIRECT}", Quantity.RATE) for tool in SINGLE_TOOLS)
    if fastest > 0.95 * direct:
        return f"Without a limit, NBD costs nothing that could be measured: {fastest:,.0f} MB/s."
    return (
        f"NBD itself is the limit on this machine only beyond {fastest:,.0f} MB/s, "
        f"where a direct reader gets {direct:,.0f} MB/s."
    )


def _as_file(figures: Figures) -> str:
    times = figures.ratio(NO_LIMIT.case(ONE_READER), Quantity.RATE, f"dd, {OURS}", f"dd, {PLAIN}")
    return (
        f"As a file of our client it gives a program {times:.2f} times the rate that nbdfuse gives when it is started "
        "by hand."
        if times >= ALIKE
        else f"As a file of our client it is read at {times:.2f} of the rate of an nbdfuse that is started by hand."
    )


def sections(figures: Figures) -> list[Section]:
    """Of what was measured."""
    return list(_sections(figures))


def _sections(figures: Figures) -> Iterator[Section]:
    for case in _measured(figures, *(limit.case(ONE_READER) for limit in LIMITS)):
        yield _one_reader(figures, case)
    for case in _measured(figures, *SEVERAL):
        yield _rates(figures, case, "The rates are of each reader.")
    for state in ("cold", "cached"):
        case = f"{IMAGE_FILE}, {state}"
        yield _rates(figures, case, "A local image of random data; the rates are of each reader.")
    yield _latencies(figures)
    for case in _measured(figures, *(limit.case(KERNEL_CLIENT) for limit in KERNEL_CLIENT_LIMITS)):
        yield _kernel(figures, case)


def _measured(figures: Figures, *cases: str) -> list[str]:
    return [case for case in cases if figures.has(case)]


def _kernel(figures: Figures, case: str) -> Section:
    base = next(variant for variant in figures.variants(case) if variant.endswith(DIRECT) or variant == TCP)
    rows = [
        (
            variant,
            value(figures, case, variant, Quantity.RATE),
            "" if variant == base else f"{figures.ratio(case, Quantity.RATE, variant, base):.3f}",
            "" if variant == base else significant(figures.median(case, variant, Quantity.SERVER_CPU)),
        )
        for variant in figures.variants(case)
    ]
    return Section(sentence_case(case), ("with", "MB/s", f"of {base}", "server, s/GiB"), rows, KERNEL_NOTES[case])


KERNEL_NOTES = {
    KERNEL_LIMITED: (
        "`nbd-client` and `dd` of /dev/nbd0, in a Debian with its cloud kernel, as a worker would do it. The machine"
        " is emulated in software, and its network carries less than the limits above: so the limit is one that it can"
        " carry. The direct reader is not in the machine."
    ),
    EMULATED.case(KERNEL_CLIENT): "The emulated network is the limit here: beside it, a TCP stream without NBD.",
}


def _one_reader(figures: Figures, case: str) -> Section:
    chart = Chart(
        f"reading-{slug(case)}",
        sentence_case(case),
        "MB/s",
        {
            tool: {side: figures.median(case, f"{tool}, {side}", Quantity.RATE) for side in _sides(figures, case, tool)}
            for tool in SINGLE_TOOLS
        },
    )
    rows = []
    for variant in figures.variants(case):
        tool, side = variant.split(", ")
        latency = [value(figures, case, variant, each) for each in (Quantity.TYPICAL_LATENCY, Quantity.HIGH_LATENCY)]
        rows.append((tool, side, *_common(figures, case, variant), *latency))
    headings = ("with", "from", "MB/s", "of direct", "server, s/GiB", "client, s/GiB", "median, ms", "99 %, ms")
    return Section(sentence_case(case), headings, rows, NOTES.get(case, ""), chart)


NOTES = {
    SMALL_MACHINE.case(ONE_READER): (
        "The design document's first machine, where it found 14.1 of 14.4 MB/s (0.979). Every server and every "
        "direct reader is under the same limit (cgroup v1, `blkio.throttle.read_bps_device`, on a loop device that "
        "bypasses the page cache of the file behind it). `dd` reads NBD through nbdfuse: started by hand with its "
        "defaults for qemu-nbd, and by the client's `file()` for cloudmanager. The limiter's initial burst is left "
        "out: the first quarter for `dd` and `nbdcopy`, the first second for `fio`, which has one request of 256 KiB "
        "in flight. A high 99th percentile is the limiter's, which passes requests in portions."
    ),
    LARGE_MACHINE.case(ONE_READER): "The design document's second machine, where it found 58.9 of 60.5 MB/s (0.974).",
    NO_LIMIT.case(ONE_READER): (
        "As fast as this machine can read; the disk is virtual, and its host may cache. `fio` has eight requests of "
        "256 KiB in flight."
    ),
}


def _rates(figures: Figures, case: str, note: str) -> Section:
    headings = ("with", "from", "MB/s", "of direct", "server, s/GiB", "client, s/GiB", "slowest, MB/s")
    rows = [
        (*variant.split(", "), *_common(figures, case, variant), value(figures, case, variant, Quantity.SLOWEST))
        for variant in figures.variants(case)
    ]
    return Section(sentence_case(case), headings, rows, note)


def _common(figures: Figures, case: str, variant: str) -> tuple[str, str, str, str]:
    direct = variant.endswith(DIRECT)
    return (
        value(figures, case, variant, Quantity.RATE),
        "" if direct else f"{_of_direct(figures, case, variant):.3f}",
        "" if direct else significant(figures.median(case, variant, Quantity.SERVER_CPU)),
        significant(figures.median(case, variant, Quantity.CLIENT_CPU)),
    )


def _latencies(figures: Figures) -> Section:
    quantities = (Quantity.TYPICAL_LATENCY, Quantity.HIGH_LATENCY)
    rows = [
        (variant.split(", ")[1], *(value(figures, RANDOM_READS, variant, each) for each in quantities))
        for variant in figures.variants(RANDOM_READS)
    ]
    note = "`fio`, a cold disk without a limit, over the whole of it."
    return Section(sentence_case(RANDOM_READS), ("from", "median, ms", "99 %, ms"), rows, note)


def _of_direct(figures: Figures, case: str, variant: str) -> float:
    """Of the direct read with the same program, or with the one that there is."""
    direct = f"{variant.split(', ', maxsplit=1)[0]}, {DIRECT}"
    if direct not in figures.variants(case):
        direct = next(each for each in figures.variants(case) if each.endswith(DIRECT))
    return figures.ratio(case, Quantity.RATE, variant, direct)


def _sides(figures: Figures, case: str, tool: str) -> list[str]:
    return [side for side in SIDES if f"{tool}, {side}" in figures.variants(case)]
