"""Ratios of medians, measured in turn, so that a machine whose speed drifts slows both sides."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A line of the table."""

    what: str
    value: str
    goal: str = ""


def alternate(
    rounds: int, ours: Callable[[int], float], yardstick: Callable[[int], float]
) -> tuple[list[float], list[float]]:
    """Runs both in turn; each gets the number of the round and returns seconds."""
    pairs = [(ours(number), yardstick(number)) for number in range(rounds)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def ratio(what: str, over: Sequence[float], under: Sequence[float], unit: str, goal: str = "") -> Figure:
    top, bottom = statistics.median(over), statistics.median(under)
    return Figure(what, f"{top / bottom:.2f}  ({top:.4f} / {bottom:.4f} {unit}, medians of {len(over)})", goal)
