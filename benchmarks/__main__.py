"""`python -m benchmarks [TABLE…]`: measures, prints, keeps. `python -m benchmarks page` makes docs/performance.md."""

import argparse
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from benchmarks import environment, page
from benchmarks.figures import Figures, Series
from benchmarks.rig import leftovers
from benchmarks.rig.cgroup import scheduled_together
from benchmarks.rounds import Effort
from benchmarks.section import Section
from benchmarks.shown import SHOWN
from benchmarks.tables import MEASURES

CONSOLE = Console(width=150)


def main() -> None:
    arguments = _arguments()
    if arguments.tables == ["page"]:
        page.write()
        return
    if os.geteuid() != 0:
        raise SystemExit("The benchmarks make loop devices, network namespaces and control groups: run them as root.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that everything is cleaned up
    leftovers.sweep()
    try:
        with scheduled_together():
            _measure_all(arguments)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        leftovers.sweep_own()


def _measure_all(arguments: argparse.Namespace) -> None:
    for name in arguments.tables or MEASURES:
        figures = _measure(name, Effort(arguments.quick))
        if not arguments.quick or arguments.results != page.RESULTS:
            CONSOLE.print(f"kept in {figures.save(arguments.results)}")
        _show(figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[*MEASURES, "page", []], metavar="TABLE", help=", ".join(MEASURES))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: only shows that it works")
    parser.add_argument(
        "--results",
        type=Path,
        default=page.RESULTS,
        help="directory of the results; a quick run is kept only elsewhere",
    )
    return parser.parse_args()


def _measure(name: str, effort: Effort) -> Figures:
    CONSOLE.rule(SHOWN[name].title)
    began = time.monotonic()
    series: list[Series] = []
    for each in MEASURES[name](effort):
        if not series or series[-1].case != each.case:
            CONSOLE.print(f"{time.monotonic() - began:6.0f} s  {each.case}", highlight=False)
        series.append(each)
    took = round(time.monotonic() - began)
    day = datetime.now(UTC).date().isoformat()
    return Figures(name, environment.describe(), day, took, effort.is_quick, tuple(series))


def _show(figures: Figures) -> None:
    shown = SHOWN[figures.table]
    for section in shown.sections(figures):
        CONSOLE.print(_grid(section))
    CONSOLE.print(shown.meaning(figures), highlight=False)
    CONSOLE.print(page.machine(figures), style="dim", highlight=False)


def _grid(section: Section) -> Grid:
    grid = Grid(title=section.title, title_justify="left")
    for heading in section.headings:
        grid.add_column(heading)
    for row in section.rows:
        grid.add_row(*row)
    return grid


if __name__ == "__main__":
    main()
