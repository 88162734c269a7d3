"""docs/performance.md says what was measured."""

import functools
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt

from benchmarks import page, plot
from benchmarks.figures import Figures, Quantity, Series
from benchmarks.rig.limits import LARGE_MACHINE, NO_LIMIT
from benchmarks.rig.testbed import DIRECT, OURS, PLAIN
from benchmarks.section import Chart, significant
from benchmarks.shown import SHOWN
from benchmarks.tables import MEASURES
from benchmarks.tables.reading import ONE_READER

TABLES = sorted(MEASURES)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def results() -> dict[str, Figures]:
    return page.load()


def changed(figures: Figures, change: Callable[[Series], Series]) -> Figures:
    return replace(figures, series=tuple(map(change, figures.series)))


def scaled(series: Series, by: float) -> Series:
    return replace(series, values=tuple(value * by for value in series.values))


def scaled_if(one: Series, by: float, series: Series) -> Series:
    return scaled(series, by) if series is one else series


def with_ours_at(figures: Figures, part_of_direct: float) -> Figures:
    """Every rate of ours is that part of the direct one."""

    def change(series: Series) -> Series:
        if series.quantity is not Quantity.RATE or not series.variant.endswith(OURS):
            return series
        direct = series.variant.replace(OURS, DIRECT)
        if direct not in figures.variants(series.case):
            return series
        return replace(scaled(figures.one(series.case, direct, Quantity.RATE), part_of_direct), variant=series.variant)

    return changed(figures, change)


def test_every_table_has_results(results: dict[str, Figures]) -> None:
    assert sorted(results) == TABLES == sorted(SHOWN)


def test_the_page_and_its_plots_are_in_step_with_the_results(results: dict[str, Figures]) -> None:
    made = page.files(results)
    stale = [str(path) for path, text in made.items() if not path.exists() or path.read_text() != text]
    assert stale == [], "run `make performance`"
    assert set((page.PAGE.parent / page.PLOTS).iterdir()) == set(made) - {page.PAGE}


def test_every_row_of_the_page_is_read_with_all_its_cells(results: dict[str, Figures]) -> None:
    """A variant with netcat has a pipe in its name, which is what Markdown ends a cell with."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(page.files(results)[page.PAGE])
    cells = [token.content for opened, token in pairwise(tokens) if opened.type == "td_open"]
    sections = [section for name in results for section in SHOWN[name].sections(results[name])]
    assert cells == [cell for section in sections for row in section.rows for cell in row]


@pytest.mark.parametrize("table", TABLES)
def test_a_figure_that_changes_changes_the_page(table: str, results: dict[str, Figures]) -> None:
    """Every single one that is no zero: nothing was measured in vain."""
    found = results[table]
    shown = page.files({table: found})[page.PAGE]
    for one in filter(lambda series: series.median, found.series):
        factor = 0 if one.quantity is Quantity.COMPRESSED else 3  # yes or no
        other = changed(found, functools.partial(scaled_if, one, factor))
        assert page.files({table: other})[page.PAGE] != shown, one


def test_a_quick_run_is_said_to_mean_nothing(results: dict[str, Figures]) -> None:
    meaning = SHOWN["servers"].meaning(results["servers"])
    for is_quick in (False, True):
        text = page.files({"servers": replace(results["servers"], is_quick=is_quick)})[page.PAGE]
        assert (page.QUICK[:60] in text) is is_quick
        assert (meaning[:60] in text) is not is_quick


@pytest.mark.parametrize(("part", "is_as_fast"), [(0.97, False), (0.994, False), (0.996, True), (1.01, True)])
def test_the_sentence_on_the_limited_disk_follows_the_figures(
    part: float, is_as_fast: bool, results: dict[str, Figures]
) -> None:
    output = SHOWN["reading"].meaning(with_ours_at(results["reading"], part))
    assert ("as fast as directly" in output) is is_as_fast
    assert f"{part:.3f}" in output


@pytest.mark.parametrize(("part", "is_shared"), [(0.6, False), (0.95, True)])
def test_the_sentence_on_several_readers_follows_the_slowest_of_them(
    part: float, is_shared: bool, results: dict[str, Figures]
) -> None:
    found = results["reading"]
    alone = found.median(LARGE_MACHINE.case(ONE_READER), f"dd, {DIRECT}", Quantity.RATE)

    def slower(series: Series) -> Series:
        is_ours = series.quantity is Quantity.SLOWEST and series.variant.endswith(OURS)
        return replace(series, values=(part * alone,)) if is_ours else series

    output = SHOWN["reading"].meaning(changed(found, slower))
    assert ("read once for all" in output) is is_shared
    assert f"get {part:.2f} of its rate each, three readers on one client {part:.2f}" in output


@pytest.mark.parametrize(("times", "message"), [(0.9, "is read at 0.90 of"), (2.5, "2.50 times the rate that nbdfuse")])
def test_the_sentence_on_the_file_follows_the_figures(times: float, message: str, results: dict[str, Figures]) -> None:
    found, case = results["reading"], NO_LIMIT.case(ONE_READER)
    by_hand = found.one(case, f"dd, {PLAIN}", Quantity.RATE)
    ours = found.one(case, f"dd, {OURS}", Quantity.RATE)
    scaled_ours = replace(scaled(by_hand, times), variant=ours.variant)
    assert message in SHOWN["reading"].meaning(changed(found, lambda series: scaled_ours if series is ours else series))


def test_what_a_machine_could_not_measure_is_not_shown_and_said(results: dict[str, Figures]) -> None:
    found = results["reading"]
    without = replace(found, series=tuple(series for series in found.series if "MB/s" not in series.case))
    assert "was not measured" in SHOWN["reading"].meaning(without)
    titles = [section.title for section in SHOWN["reading"].sections(without)]
    assert "One reader, no limit" in titles
    assert not any("MB/s" in title for title in titles)


@pytest.mark.parametrize("table", TABLES)
def test_every_table_says_what_it_means_in_sentences(table: str, results: dict[str, Figures]) -> None:
    assert re.fullmatch(r"[A-Z].*\.", SHOWN[table].meaning(results[table]))


def test_a_plot_has_a_bar_for_each_value_and_the_longest_is_the_largest() -> None:
    chart = Chart("some", "Some <servers>", "MB/s", {"1 client": {"cloudmanager": 30.0, "another": 60.0, "none": 0.0}})
    root = ET.fromstring(plot.svg(chart))  # noqa: S314 - our own
    widths = [float(bar.get("width", "")) for bar in root.iter(f"{SVG}rect")]
    assert widths[1] == 2 * widths[0] == max(widths)
    assert 0 < widths[2] < 2
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "Some <servers> (MB/s)" in texts
    assert significant(60.0) in texts


def test_a_long_label_is_not_cut_off() -> None:
    """It ends before the bar: the room before that is what it has."""
    label = "onto a disk of another cloudmanager, far away"
    root = ET.fromstring(plot.svg(Chart("some", "Some", "s", {"": {label: 1.0}})))  # noqa: S314 - our own
    (end,) = (float(text.get("x", "")) for text in root.iter(f"{SVG}text") if text.get("class") == "label")
    assert end >= plot.LETTER * len(label)


def test_a_way_of_ours_has_the_same_shade_in_whatever_order() -> None:
    def shades(*variants: str) -> dict[str | None, str]:
        root = ET.fromstring(plot.svg(Chart("some", "Some", "s", {"": dict.fromkeys(variants, 1.0)})))  # noqa: S314
        labels = [text.text for text in root.iter(f"{SVG}text") if text.get("class") == "label"]
        return dict(zip(labels, [bar.get("class", "") for bar in root.iter(f"{SVG}rect")], strict=True))

    plain, more = "cloudmanager deploy", "cloudmanager deploy --verify"
    assert shades(plain, "nc", more) == shades(more, "nc", plain) == {plain: "ours", more: "ours-2", "nc": "other"}
