"""docs/performance.md and its plots, made from the results that are kept."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from benchmarks import plot
from benchmarks.figures import Figures
from benchmarks.section import Section
from benchmarks.shown import SHOWN, Shown

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs/performance.md"
PLOTS = "performance"
"""The directory of the plots, beside the page."""
LINE_LENGTH = 120
QUICK = "**A quick run, with tiny sizes: these figures mean nothing. `make bench` measures those that do.**"
INTRODUCTION = """\
# Performance

<!-- Made by `make performance` from benchmarks/results/. Change those by measuring, or the code in benchmarks/. -->

`make bench` measures these figures (as root, in some 40 minutes). The two sides of a ratio took turns in one run. A
figure is the median of its rounds, with the lowest and the highest in brackets; every single value is in
`benchmarks/results/`. Rates are in millions of bytes per second. Processor time is that of all processes of the server,
or of the client, in seconds for each GiB read, without the kernel's own threads. Everything runs in one group of the
scheduler: otherwise Linux would divide the processors between sessions, and each server of a service has its own.
"""


def load(directory: Path = RESULTS) -> dict[str, Figures]:
    """By the table's name, those that are there."""
    files = {name: directory / f"{name}.json" for name in SHOWN}
    return {name: Figures.load(file) for name, file in files.items() if file.exists()}


def files(results: Mapping[str, Figures]) -> dict[Path, str]:
    """Every file that the page consists of, with its content."""
    sections = {name: SHOWN[name].sections(figures) for name, figures in results.items()}
    charts = [section.chart for each in sections.values() for section in each if section.chart]
    made = {PAGE.parent / PLOTS / f"{chart.name}.svg": plot.svg(chart) for chart in charts}
    text = "\n".join([INTRODUCTION, *(_table(SHOWN[name], results[name], sections[name]) for name in sections)])
    return {PAGE: text, **made}


def write() -> None:
    made = files(load())
    for old in set((PAGE.parent / PLOTS).glob("*.svg")) - set(made):
        old.unlink()
    for path, text in made.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def _table(shown: Shown, figures: Figures, sections: list[Section]) -> str:
    meaning = QUICK if figures.is_quick else shown.meaning(figures)
    lines = [f"## {shown.title}", "", _paragraph(meaning), "", _paragraph(f"*{machine(figures)}*"), ""]
    for section in sections:
        lines += _section(section)
    return "\n".join(lines)


def machine(figures: Figures) -> str:
    programs = ", ".join(f"{name} {text}" for name, text in figures.machine.items() if name not in _ABOUT)
    about = ", ".join(figures.machine[name] for name in _ABOUT)
    return f"{about}; {programs}. Measured on {figures.measured_on}, in {figures.took_seconds} s."


_ABOUT = ("processor", "memory", "kernel")


def _section(section: Section) -> Iterator[str]:
    yield from (f"### {section.title}", "")
    if section.note:
        yield from (_paragraph(section.note), "")
    if section.chart:
        yield from (f"![{section.chart.title}]({PLOTS}/{section.chart.name}.svg)", "")
    yield _row(section.headings)
    yield f"|{'---|' * len(section.headings)}"
    yield from map(_row, section.rows)
    yield ""


def _row(cells: Iterable[str]) -> str:
    """Of a table. A command with a pipe is one cell all the same."""
    escaped = [cell.replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, LINE_LENGTH, break_long_words=False, break_on_hyphens=False)
