"""Nurseries, which let services live and die, and the emulated clouds that outlive them."""

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
    """Of a life."""

    points: Sequence[str]
    """Where its services could have been killed, in the order in which they were there."""
    wrong: Sequence[str]


class Nursery:
    """A process that forks services, one life at a time."""

    def __init__(self, directory: Path, number: int, address: str) -> None:
        """Where `address` is that of an emulated cloud, its lives are lived on the `number`-th machine there."""
        self._place = {"address": address, "number": number}
        with (directory / f"nursery-{number}.log").open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.scenario_runner"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def live(self, directory: Path, life: str, kills: Sequence[str | None], schema: Path | None) -> Outcome:
        assert self._process.stdin
        assert self._process.stdout
        request = {"directory": str(directory), "life": life, "kills": kills, "schema": schema and str(schema)}
        self._process.stdin.write(json.dumps(request | self._place) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the nursery ended"
        return Outcome(**json.loads(answer))

    def close(self) -> None:
        self._process.communicate()


class Nurseries:
    """Several, for lives of which nothing depends on another."""

    def __init__(self, directory: Path, schema: Path, address: str = "") -> None:
        """`schema` is an empty store of this version."""
        self._directory = directory
        self._schema = schema
        self._all = [Nursery(directory, number, address) for number in range(AT_ONCE)]
        self._lives = 0

    def undisturbed(self, life: str) -> list[str]:
        """The points of a life to which nothing happens."""
        outcome = self._all[0].live(self._directory / "undisturbed", life, [None], None)
        assert not outcome.wrong, "\n".join(outcome.wrong)
        return list(outcome.points)

    def killed(self, life: str, kills: Sequence[Sequence[str]]) -> list[Outcome]:
        """A life for each list of points to kill its services at."""

        def lived(nursery: Nursery, number: int) -> Outcome:
            migrates = any("migrate" in point for point in kills[number])
            place = self._directory / f"life-{self._lives + number}"
            return nursery.live(place, life, kills[number], None if migrates else self._schema)

        def share(which: int) -> dict[int, Outcome]:
            return {number: lived(self._all[which], number) for number in range(which, len(kills), AT_ONCE)}

        with ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = {number: each for part in pool.map(share, range(AT_ONCE)) for number, each in part.items()}
        self._lives += len(kills)
        return [outcomes[number] for number in range(len(kills))]

    def close(self) -> None:
        for nursery in self._all:
            nursery.close()


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
