"""Processes that run scenarios, and the emulated clouds that outlive the services there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudmanager.testing.cloud.loop_device import detach_all
from tests.checkout import ROOT

AT_ONCE = 2


@dataclass(frozen=True)
class Outcome:
    """Of a scenario."""

    points: Sequence[str]
    """Where its services could have been killed, in the order in which they were there."""
    wrong: Sequence[str]


class ScenarioRunner:
    """A process that forks services, one scenario at a time."""

    def __init__(self, directory: Path, number: int, address: str) -> None:
        """Where `address` is that of an emulated cloud, its scenarios run on the `number`-th machine there."""
        self._place = {"address": address, "number": number}
        with (directory / f"runner-{number}.log").open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.scenario_runner"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def run(self, directory: Path, scenario: str, kills: Sequence[str | None], schema: Path | None) -> Outcome:
        assert self._process.stdin
        assert self._process.stdout
        request = {"directory": str(directory), "scenario": scenario, "kills": kills, "schema": schema and str(schema)}
        self._process.stdin.write(json.dumps(request | self._place) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the runner ended"
        return Outcome(**json.loads(answer))

    def close(self) -> None:
        self._process.communicate()


class ScenarioRunners:
    """Several processes, for scenarios of which none depends on another."""

    def __init__(self, directory: Path, schema: Path, address: str = "") -> None:
        """`schema` is an empty store of this version."""
        self._directory = directory
        self._schema = schema
        self._all = [ScenarioRunner(directory, number, address) for number in range(AT_ONCE)]
        self._runs = 0

    def undisturbed(self, scenario: str) -> list[str]:
        """The points of a scenario to which nothing happens."""
        outcome = self._all[0].run(self._directory / "undisturbed", scenario, [None], None)
        assert not outcome.wrong, "\n".join(outcome.wrong)
        return list(outcome.points)

    def killed(self, scenario: str, kills: Sequence[Sequence[str]]) -> list[Outcome]:
        """A scenario for each list of points to kill its services at."""

        def lived(runner: ScenarioRunner, number: int) -> Outcome:
            migrates = any("migrate" in point for point in kills[number])
            place = self._directory / f"scenario-{self._runs + number}"
            return runner.run(place, scenario, kills[number], None if migrates else self._schema)

        def share(which: int) -> dict[int, Outcome]:
            return {number: lived(self._all[which], number) for number in range(which, len(kills), AT_ONCE)}

        with ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = {number: each for part in pool.map(share, range(AT_ONCE)) for number, each in part.items()}
        self._runs += len(kills)
        return [outcomes[number] for number in range(len(kills))]

    def close(self) -> None:
        for runner in self._all:
            runner.close()


@contextmanager
def emulated(kind: str, parent: Path) -> Iterator[str]:
    """Runs an emulated cloud with two machines. Yields the address of its console, which is below `parent`."""
    directory = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=parent))
    address = directory / "console"
    command: list[Any] = [sys.executable, "-m", "tests.faults.emulated", kind, directory / "cloud", address]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline(), "the emulated cloud did not start"
            yield str(address)
            process.communicate(timeout=60)
            assert process.returncode == 0
        finally:
            process.kill()
            detach_all(directory)
            shutil.rmtree(directory)
