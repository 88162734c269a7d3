"""The blog post's second table."""

from benchmarks.figures import Figures, Quantity
from benchmarks.section import Chart, Section, value
from benchmarks.tables.building import CASE, LOCAL, OVER_NBD

ALIKE = 1.1


def meaning(figures: Figures) -> str:
    ratio = figures.ratio(CASE, Quantity.SECONDS, OVER_NBD, LOCAL)
    start = (
        f"To build an image straight onto another machine's disk takes {ratio:.2f} times as long as onto a local file"
    )
    if ratio <= ALIKE:
        return f"{start}: the copy that would follow is saved (the blog post found 1.025)."
    return f"{start} (the blog post found 1.025); copying the file would come on top of that."


def sections(figures: Figures) -> list[Section]:
    rows = [(variant, value(figures, CASE, variant, Quantity.SECONDS)) for variant in (LOCAL, OVER_NBD)]
    note = (
        "From a small template of our own, with its machine emulated in software, which takes most of the time. The "
        "target is a loop device on nbdfuse's file; its time includes asking for the export and giving it back."
    )
    bars = {variant: figures.median(CASE, variant, Quantity.SECONDS) for variant in (LOCAL, OVER_NBD)}
    chart = Chart("building", CASE, "seconds", {"": bars})
    return [Section(CASE, ("target", "s"), rows, note, chart)]
