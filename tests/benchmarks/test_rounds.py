"""How it is measured: turns, medians, what is kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.figures import Figures, Quantity, Series
from benchmarks.rounds import Effort, Measured, take_turns

S = Quantity.SECONDS


def figures(*series: Series) -> Figures:
    return Figures("some", {"kernel": "Linux"}, "2026-01-02", 3, False, series)


def test_ways_take_turns_in_alternating_order() -> None:
    order: list[str] = []

    def variant(name: str) -> Measured:
        order.append(name)
        return {S: 1.0}

    list(take_turns("some", 3, {"a": lambda: variant("a"), "b": lambda: variant("b")}))
    assert "".join(order) == "abbaab"


def test_every_value_of_every_quantity_is_kept_in_order() -> None:
    values: Iterator[float] = iter([1.0, 2.0, 4.0])
    (seconds, rate) = take_turns("some", 3, {"a": lambda: {S: next(values), Quantity.RATE: 7.0}})
    assert seconds == Series("some", "a", S, (1.0, 2.0, 4.0))
    assert (rate.quantity, rate.values) == (Quantity.RATE, (7.0, 7.0, 7.0))


def test_a_way_that_is_far_slower_is_measured_once() -> None:
    variants = {"fast": lambda: {S: 1.0}, "slow": lambda: {S: 5.0}, "near": lambda: {S: 1.5}}
    taken = {series.variant: len(series.values) for series in take_turns("some", 3, variants, once_if_slower=3)}
    assert taken == {"fast": 3, "slow": 1, "near": 3}


def test_what_is_kept_can_be_read_again(tmp_path: Path) -> None:
    made = figures(Series("one reader", "dd", S, (1.5, 2.0)), Series("one reader", "dd", Quantity.RATE, (9.0,)))
    assert Figures.load(made.save(tmp_path)) == made


def test_a_ratio_is_of_medians() -> None:
    made = figures(Series("some", "a", S, (1.0, 2.0, 90.0)), Series("some", "b", S, (4.0, 4.0, 1.0)))
    assert made.ratio("some", S, "a", "b") == 0.5


def test_what_was_not_measured_is_an_error_that_names_it() -> None:
    with pytest.raises(KeyError, match="two readers"):
        figures().median("two readers", "dd", S)


def test_a_quick_run_is_one_round_of_a_sixteenth() -> None:
    assert (Effort(is_quick=True).rounds(5), Effort(is_quick=True).size(64)) == (1, 4)
