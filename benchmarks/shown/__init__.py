"""How each table is shown, and what its figures mean for a user. The sentences follow the figures."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.figures import Figures
from benchmarks.section import Section
from benchmarks.shown import building, control, deploying, idle, reading, servers


@dataclass(frozen=True)
class Shown:
    title: str
    sections: Callable[[Figures], list[Section]]
    meaning: Callable[[Figures], str]


SHOWN = {
    "reading": Shown("Reading: a disk of this machine, and the same disk over NBD", reading.sections, reading.meaning),
    "deploying": Shown("Deploying: an image onto another machine's disk", deploying.sections, deploying.meaning),
    "building": Shown("Building: virt-builder, straight onto another machine", building.sections, building.meaning),
    "servers": Shown("Servers: ours, and what could serve instead", servers.sections, servers.meaning),
    "control": Shown("Control plane: from a request to a served disk", control.sections, control.meaning),
    "idle": Shown("Idle: what exports cost that nobody uses", idle.sections, idle.meaning),
}
"""In the order of the page."""
