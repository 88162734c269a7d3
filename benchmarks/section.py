"""What is shown of a table: on the screen and on the page alike."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.figures import Figures, Quantity


@dataclass(frozen=True)
class Chart:
    """Horizontal bars in groups."""

    name: str
    """Of its file."""
    title: str
    unit: str
    groups: Mapping[str, Mapping[str, float]]
    """Label of the group → label of the bar → value."""


@dataclass(frozen=True)
class Section:
    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    chart: Chart | None = None


def value(figures: Figures, case: str, variant: str, quantity: Quantity) -> str:
    """The median, with the lowest and the highest where there were several; empty if it was not measured."""
    try:
        series = figures.one(case, variant, quantity)
    except KeyError:
        return ""
    if len(series.values) == 1:
        return significant(series.median)
    lowest, highest = significant(min(series.values)), significant(max(series.values))
    return f"{significant(series.median)} ({lowest}–{highest})" if lowest != highest else significant(series.median)  # noqa: RUF001 - a range


def significant(number: float) -> str:
    """Three digits."""
    if number == 0:
        return "0"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}" if number >= 0.001 else f"{number:.1g}"


def milliseconds(figures: Figures, case: str, variant: str) -> str:
    return f"{figures.median(case, variant, Quantity.SECONDS) * 1000:.0f}"


def slug(text: str) -> str:
    """For the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def sentence_case(text: str) -> str:
    return text[0].upper() + text[1:]
