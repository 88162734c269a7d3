"""What a piece of work costs."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.rig.cgroup import Group


@contextmanager
def cpu_seconds_of(*groups: Group) -> Iterator[list[float]]:
    """A list that has the processor time of each group, spent inside the block, when it is over."""
    before = [group.cpu_seconds() for group in groups]
    spent: list[float] = []
    yield spent
    spent += [group.cpu_seconds() - was for group, was in zip(groups, before, strict=True)]
