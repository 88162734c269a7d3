"""A thousand exports later, the machine is as it was."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudmanager import Access
from tests.core.bench import Bench, opened_bench

EXPORTS = 1000
THREADS = 16


@dataclass(frozen=True)
class Footprint:
    """What a daemon holds of the machine."""

    children: frozenset[int]
    zombies: int
    descriptors: int
    files: frozenset[Path]


def footprint(state: Path) -> Footprint:
    below = frozenset(path for path in (state / "exports").rglob("*"))
    family = dict(_descendants(os.getpid()))
    zombies = sum(status == "Z" for status in family.values())
    return Footprint(frozenset(family), zombies, _descriptors(), below)


def _descriptors() -> int:
    """Without those of the store, whose pool of connections grows and shrinks."""
    targets = []
    for number in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            targets.append(str(number.readlink()))
    return sum(".sqlite" not in target for target in targets)


def _descendants(parent: int) -> Iterator[tuple[int, str]]:
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            status = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
            yield int(child), status
            yield from _descendants(int(child))


def open_and_end(bench: Bench, number: int) -> None:
    access = (Access.READ_ONLY, Access.SCRATCH)[number % 2]
    bench.end(bench.ready(f"one:{'abc'[number % 3]}.img", access, f"holder-{number}"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_is_left_of_a_thousand_exports(tmp_path: Path) -> None:
    with opened_bench(tmp_path) as bench, ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda number: open_and_end(bench, number), range(THREADS)))
        before = footprint(tmp_path / "state")
        list(pool.map(lambda number: open_and_end(bench, number), range(EXPORTS)))
        after = footprint(tmp_path / "state")
        assert after.children == before.children
        assert after.zombies == before.zombies  # of other tests, in which a machine was rebooted in thought
        assert after.files == frozenset()
        assert after.descriptors <= before.descriptors
