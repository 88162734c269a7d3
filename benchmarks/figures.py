"""What was measured: numbers with a name, kept as JSON, every single one of them."""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self


class Quantity(StrEnum):
    """What a number is, in its unit."""

    SECONDS = "s"
    RATE = "MB/s"
    SLOWEST = "MB/s, slowest reader"
    SERVER_CPU = "server CPU s/GiB"
    CLIENT_CPU = "client CPU s/GiB"
    CPU = "CPU s"
    SHARE = "% of one processor"
    MEMORY = "MiB"
    TYPICAL_LATENCY = "ms, median"
    HIGH_LATENCY = "ms, 99th percentile"
    CALLS = "calls"
    COMPRESSED = "compressed"
    """1 if the content went compressed, as `cloudmanager deploy` chose; 0 if it went over NBD."""


@dataclass(frozen=True)
class Series:
    """One thing measured in several rounds."""

    case: str
    """What was done: `one reader, 60.5 MB/s`."""
    variant: str
    """By which means: `nbdcopy, direct`."""
    quantity: Quantity
    values: tuple[float, ...]
    """One for each round, in order."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Figures:
    """The results of one table. Raises KeyError for what was not measured."""

    table: str
    machine: Mapping[str, str]
    measured_on: str
    """The day, in ISO form."""
    took_seconds: int
    is_quick: bool
    """Tiny sizes and few rounds: shows that the benchmark works, and nothing else."""
    series: tuple[Series, ...] = field(repr=False)

    def median(self, case: str, variant: str, quantity: Quantity) -> float:
        return self.one(case, variant, quantity).median

    def ratio(self, case: str, quantity: Quantity, over: str, under: str) -> float:
        """Of the medians of two variants."""
        return self.median(case, over, quantity) / self.median(case, under, quantity)

    def one(self, case: str, variant: str, quantity: Quantity) -> Series:
        for series in self.series:
            if (series.case, series.variant, series.quantity) == (case, variant, quantity):
                return series
        raise KeyError(f"{self.table}: {case!r} was not measured for {variant!r} in {quantity}")

    def has(self, case: str) -> bool:
        return any(series.case == case for series in self.series)

    def variants(self, case: str) -> list[str]:
        """In the order in which they were measured."""
        return list(dict.fromkeys(series.variant for series in self.series if series.case == case))

    def save(self, directory: Path) -> Path:
        path = directory / f"{self.table}.json"
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(self._json())
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        found = json.loads(path.read_text())
        series = tuple(
            Series(each["case"], each["variant"], Quantity(each["quantity"]), tuple(each["values"]))
            for each in found.pop("series")
        )
        return cls(**found, series=series)

    def _json(self) -> str:
        """A line for each series, so that a diff shows what changed."""
        head = asdict(self)
        lines = ",\n".join(f"    {json.dumps(each)}" for each in head.pop("series"))
        return json.dumps(head, indent=2).removesuffix("\n}") + f',\n  "series": [\n{lines}\n  ]\n}}\n'


def rounded(values: Iterable[float]) -> tuple[float, ...]:
    """Five significant digits: more than any of it means."""
    return tuple(float(f"{value:.5g}") for value in values)
