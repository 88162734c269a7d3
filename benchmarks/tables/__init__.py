"""The tables: each is measured by a function that yields its figures as they come."""

from collections.abc import Callable, Iterator, Mapping

from benchmarks.figures import Series
from benchmarks.rounds import Effort
from benchmarks.tables import building, control, deploying, idle, reading, servers

Measure = Callable[[Effort], Iterator[Series]]
MEASURES: Mapping[str, Measure] = {
    "reading": reading.measure,
    "deploying": deploying.measure,
    "building": building.measure,
    "servers": servers.measure,
    "control": control.measure,
    "idle": idle.measure,
}
