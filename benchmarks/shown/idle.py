"""What idle exports cost."""

from benchmarks.figures import Figures, Quantity
from benchmarks.section import Section, value
from benchmarks.tables.control import OURS
from benchmarks.tables.idle import COUNTS, RECONCILE_SECONDS, case


def meaning(figures: Figures) -> str:
    many = max(COUNTS)
    share = figures.median(case(many), OURS, Quantity.SHARE)
    return (
        f"A service that serves {many:,} images which nobody reads takes {share:.1f} % of one processor, and yet looks "
        f"at each of them every {RECONCILE_SECONDS} s."
    )


def sections(figures: Figures) -> list[Section]:
    rows = [(case(count), value(figures, case(count), OURS, Quantity.SHARE)) for count in COUNTS]
    note = (
        "The daemon's own processor time; the servers, one for each export, sleep. Each export is of an image file of "
        "its own, so nothing that is looked at is shared."
    )
    return [Section("The daemon", ("what", Quantity.SHARE), rows, note)]
