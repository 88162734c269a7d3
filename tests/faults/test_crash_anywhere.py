"""A service that is killed at any point of an export's lifetime is taken up by the next one as if nothing had happened.

The points are before and after each write to the store, each call of a provider and each start of a process, and before
each request to a cloud and each change that is made to the files of an export.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from cloudmanager.core.clock import Clock
from cloudmanager.core.store import Store
from tests.faults.clouds import KINDS
from tests.faults.scenario import SCENARIOS
from tests.faults.scenario_runners import Outcome, ScenarioRunners, emulated

pytestmark = pytest.mark.timeout(1800)
"""On a quiet machine they take a minute or two; on a busy one they have to wait."""
RUNS = int(os.environ.get("FAULT_RUNS", "0"))
HERE = ("read-only", "local")
IN_CLOUDS = ("gce", *(pytest.param(cloud, marks=pytest.mark.slow) for cloud in ("aws", "azure")))
SAMPLE = 4
"""So many points of a scenario in a cloud are tried in every run of the tests."""
WHOLE_LIFE = {
    "before claims.add #1",
    "after describe #1",
    "after locate #1",
    "after spawn #1",
    "before exports.set_ready #1",
    "after exports.renew #1",
    "after exports.start_closing #1",
    "before exports.set_over #1",
    "before exports.prune #1",
}
OURS = {"after attachments.plan #1", "after attach #1", "before detach #1", "after attachments.forget #1"}
"""What is reached besides when the disk is not attached already."""
LOST_ANSWERS = ["before exports.start_closing #1", "after exports.renew #1"]
"""The client was told of one renewal, and not of the next."""
TRIES = 3
"""A point may not be reached because two threads went the other way round; then it is tried again."""


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """A store without content, in one file."""
    path = tmp_path / "schema.sqlite"
    Store.open(f"sqlite:///{path}", Clock()).close()
    return path


@pytest.fixture
def scenario(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def runners(
    scenario: str, schema: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScenarioRunners]:
    provider = SCENARIOS[scenario].provider
    short = tmp_path_factory.getbasetemp()  # enough for the name of a socket
    with emulated(KINDS[provider], short) if provider in KINDS else nullcontext("") as address:
        runners = ScenarioRunners(tmp_path, schema, address)
        try:
            yield runners
        finally:
            runners.close()


def scenarios(names: Sequence[object]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scenario", names, indirect=True)


@pytest.mark.slow
@scenarios(HERE)
def test_a_service_can_be_killed_at_every_point(scenario: str, runners: ScenarioRunners) -> None:
    points = _points(scenario, runners)
    if scenario != "read-only":
        points = _after_the_start(points)
    _kill_at_each(scenario, points, runners)


@pytest.mark.longest
@scenarios(IN_CLOUDS)
def test_a_service_in_a_cloud_can_be_killed_at_points_of_every_kind(scenario: str, runners: ScenarioRunners) -> None:
    points = _after_the_start(_points(scenario, runners))
    chance = random.Random(RUNS)  # noqa: S311 - no secret
    _kill_at_each(scenario, chance.sample(points, SAMPLE), runners)


@pytest.mark.slow
@scenarios([name for name in SCENARIOS if name not in ("read-only", "local")])
def test_a_service_elsewhere_can_be_killed_at_every_point(scenario: str, runners: ScenarioRunners) -> None:
    _kill_at_each(scenario, _after_the_start(_points(scenario, runners)), runners)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1 + RUNS // 20))
@scenarios(["read-write"])
def test_services_can_be_killed_one_after_the_other(scenario: str, seed: int, runners: ScenarioRunners) -> None:
    points = _points(scenario, runners)
    chance = random.Random(seed)  # noqa: S311 - no secret
    kills = [LOST_ANSWERS, *(chance.sample(points, 3) for _ in range(20))]
    assert _faults(kills, runners.killed(scenario, kills)) == ""


def _points(scenario: str, runners: ScenarioRunners) -> list[str]:
    points = runners.undisturbed(scenario)
    played = SCENARIOS[scenario]
    is_ours = not played.by_hand and not played.shared and played.provider != "local"
    assert set(points) >= WHOLE_LIFE | (OURS if is_ours else set())
    return points


def _after_the_start(points: list[str]) -> list[str]:
    """All services start alike."""
    return points[points.index("before describe #1") :]


def _kill_at_each(scenario: str, points: Sequence[str], runners: ScenarioRunners) -> None:
    for _ in range(TRIES):
        kills = [[point] for point in points]
        outcomes = runners.killed(scenario, kills)
        assert _faults(kills, outcomes) == ""
        points = [point for point, outcome in zip(points, outcomes, strict=True) if point not in outcome.points]
    assert points == []


def _faults(kills: Sequence[Sequence[str]], outcomes: Sequence[Outcome]) -> str:
    """What is wrong, for a person."""
    pairs = zip(kills, outcomes, strict=True)
    return "\n".join(f"killed at {', then '.join(each)}: {wrong}" for each, out in pairs for wrong in out.wrong)
