"""The control plane."""

from benchmarks.figures import Figures, Quantity
from benchmarks.rig.clouds import NAMES
from benchmarks.section import Chart, Section, significant, value
from benchmarks.tables.control import (
    ATTACH,
    CACHED_READ,
    DETACH,
    FIVE_HUNDRED,
    HUNDRED,
    IDLE,
    ONE,
    OURS,
    PLAIN,
    held,
    many,
    restart,
)


def meaning(figures: Figures) -> str:
    one = figures.median(ONE, OURS, Quantity.SECONDS) * 1000
    all_of_them = figures.median(many(FIVE_HUNDRED), OURS, Quantity.SECONDS)
    again = figures.median(restart(FIVE_HUNDRED), OURS, Quantity.SECONDS)
    calls = [figures.median(ATTACH, cloud, Quantity.CALLS) for cloud in NAMES.values()]
    return (
        f"A disk that is here already is served {one:.0f} ms after it was asked for, and five hundred within "
        f"{all_of_them:.1f} s; a service that was killed has them all again {again:.1f} s after it was started, and "
        f"no client notices. Attaching a cloud's disk costs {min(calls):.0f} to {max(calls):.0f} calls of its API, so"
        " what takes time there is the cloud."
    )


def sections(figures: Figures) -> list[Section]:
    return [_compared(figures), _own(figures), _clouds(figures)]


def _compared(figures: Figures) -> Section:
    lines = [
        (ONE, Quantity.SECONDS),
        (many(HUNDRED), Quantity.SECONDS),
        (many(FIVE_HUNDRED), Quantity.SECONDS),
        (CACHED_READ, Quantity.RATE),
    ]
    rows = [
        (
            case,
            quantity,
            *(value(figures, case, variant, quantity) for variant in (OURS, PLAIN)),
            f"{figures.ratio(case, quantity, OURS, PLAIN):.2f}",
        )
        for case, quantity in lines
    ]
    note = (
        "All ready means: an NBD handshake with each has succeeded. By hand, a shell starts `qemu-nbd --fork`, 16 at"
        " once where there are many. A faster read is mostly faster connecting: `nbdcopy` makes several connections,"
        " and those to a qemu-nbd by hand wait for delayed acknowledgements."
    )
    headings = ("what", "unit", OURS, PLAIN, "ours / by hand")
    return Section("Against qemu-nbd, started by hand", headings, rows, note, _chart(figures))


def _chart(figures: Figures) -> Chart:
    groups = {
        case: {variant: figures.median(case, variant, Quantity.SECONDS) for variant in (OURS, PLAIN)}
        for case in (many(HUNDRED), many(FIVE_HUNDRED))
    }
    return Chart("control", "Until all are ready", "seconds", groups)


def _own(figures: Figures) -> Section:
    rows = [
        (f"{restart(FIVE_HUNDRED)}: until ready", value(figures, restart(FIVE_HUNDRED), OURS, Quantity.SECONDS), "s"),
        *(
            (f"{many(count)}: the daemon", value(figures, many(count), OURS, Quantity.CPU), Quantity.CPU)
            for count in (HUNDRED, FIVE_HUNDRED)
        ),
    ]
    for count in (HUNDRED, FIVE_HUNDRED):
        rows += [
            (f"{held(count)}: {variant}", significant(figures.median(held(count), variant, Quantity.MEMORY)), "MiB")
            for variant in figures.variants(held(count))
        ]
    rows.append((f"{IDLE}: the daemon", significant(figures.median(IDLE, OURS, Quantity.CPU)), Quantity.CPU))
    note = "Killed means SIGKILL: the servers go on, and are the same processes afterwards."
    return Section("The daemon", ("what", "figure", "unit"), rows, note)


def _clouds(figures: Figures) -> Section:
    rows = [
        (
            cloud,
            significant(figures.median(ATTACH, cloud, Quantity.CALLS)),
            value(figures, ATTACH, cloud, Quantity.SECONDS),
            significant(figures.median(DETACH, cloud, Quantity.CALLS)),
        )
        for cloud in figures.variants(ATTACH)
    ]
    headings = ("cloud", "calls until ready", "seconds", "calls from the release until detached")
    note = (
        "The emulated clouds, at the pace of the real ones as far as it is known: the calls are those that the real "
        "API would get, metadata server and tokens not counted; the seconds are the emulator's, not a promise."
    )
    return Section("Calls of the cloud's API", headings, rows, note)
