"""A service that is killed at any point of an export's life is taken up by the next one as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloudmanager.core.clock import Clock
from cloudmanager.core.store import Store
from tests.faults.life import LIVES

AT_ONCE = 2
RUNS = int(os.environ.get("FAULT_RUNS", "0"))


class Nursery:
    """A process that forks services, one life at a time."""

    def __init__(self, log: Path) -> None:
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.nursery"],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def ask(self, **request: object) -> dict[str, object]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the nursery ended"
        found: dict[str, object] = json.loads(answer)
        return found

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def nurseries(tmp_path: Path) -> Iterator[list[Nursery]]:
    made = [Nursery(tmp_path / f"nursery-{number}.log") for number in range(AT_ONCE)]
    yield made
    for nursery in made:
        nursery.close()


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """A store without content, in one file."""
    path = tmp_path / "schema.sqlite"
    Store.open(f"sqlite:///{path}", Clock()).close()
    return path


def undisturbed(life: str, nursery: Nursery, directory: Path) -> list[str]:
    """The points of a life to which nothing happens."""
    answer = nursery.ask(directory=str(directory / "undisturbed"), life=life, kills=[None], schema=None)
    assert answer["wrong"] == []
    return [str(point) for point in answer["points"]]  # type: ignore[attr-defined] # a list, from JSON


def killed(life: str, kills: list[list[str]], nurseries: list[Nursery], schema: Path) -> list[dict[str, object]]:
    """A life for each list of points to kill its services at."""

    def lived(nursery: Nursery, number: int) -> dict[str, object]:
        migrates = any("migrate" in point for point in kills[number])
        place = str(schema.parent / f"life-{number}")
        return nursery.ask(directory=place, life=life, kills=kills[number], schema=None if migrates else str(schema))

    def share(which: int) -> dict[int, dict[str, object]]:
        return {number: lived(nurseries[which], number) for number in range(which, len(kills), AT_ONCE)}

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = {number: answer for part in pool.map(share, range(AT_ONCE)) for number, answer in part.items()}
    return [answers[number] for number in range(len(kills))]


def faults(names: list[str], answers: list[dict[str, object]]) -> str:
    """What is wrong, for a person."""
    lines = []
    for name, answer in zip(names, answers, strict=True):
        lines += [f"killed at {name}: {each}" for each in answer["wrong"]]  # type: ignore[attr-defined] # from JSON
    return "\n".join(lines)


@pytest.mark.parametrize("life", LIVES)
def test_a_service_can_be_killed_at_every_point(life: str, nurseries: list[Nursery], schema: Path) -> None:
    points = undisturbed(life, nurseries[0], schema.parent)
    assert {"before claim #1", "after spawn #1", "before set_ready #1", "after renew #1"} < set(points)
    if life != "read-only":
        points = points[points.index("before describe #1") :]  # all start alike
    answers = killed(life, [[point] for point in points], nurseries, schema)
    assert faults(points, answers) == ""
    missed = [point for point, answer in zip(points, answers, strict=True) if point not in answer["points"]]  # type: ignore[operator] # from JSON
    assert missed == []


@pytest.mark.parametrize("seed", range(1 + RUNS // 20))
def test_services_can_be_killed_one_after_the_other(seed: int, nurseries: list[Nursery], schema: Path) -> None:
    points = undisturbed("read-write", nurseries[0], schema.parent)
    chance = random.Random(seed)  # noqa: S311 - no secret
    kills = [chance.sample(points, 3) for _ in range(20)]
    answers = killed("read-write", kills, nurseries, schema)
    assert faults([", then ".join(each) for each in kills], answers) == ""
