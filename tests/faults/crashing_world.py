"""A world whose manager is in a process of its own, which is killed at any moment and started again."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from cloudmanager.core.manager import Manager
from tests.checkout import ROOT
from tests.faults import invariants
from tests.faults.remote_object import Gone, RemoteObject
from tests.faults.world import HookFaults, World, kill

_STARTS = 20
"""A service that is killed at its start is started again; this often something is wrong with it."""


class ServiceForker:
    """A process that forks services."""

    def __init__(self, directory: Path) -> None:
        """`directory`: below it are those of the worlds."""
        self.directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forking_service"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fork(self, directory: Path, address: Path, crash_after: int | None) -> int:
        """The process id of a service; 0 when it was killed before it served."""
        assert self._process.stdin
        assert self._process.stdout
        request = {"directory": str(directory), "address": str(address), "crash_after": crash_after}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


class _Tireless:
    """What a client does: it asks again until there is an answer. What it asks for must bear that."""

    def __init__(self, away: RemoteObject, start: Callable[[], object]) -> None:
        self._away = away
        self._start = start

    def __getattr__(self, name: str) -> _Tireless:
        return _Tireless(getattr(self._away, name), self._start)

    def __call__(self, *arguments: object, **named: object) -> object:
        for _ in range(_STARTS):
            try:
                return self._away(*arguments, **named)
            except Gone:
                self._start()
        raise AssertionError(f"no service runs long enough for {self._away!r}")


class CrashingWorld(World):
    """As `World`, and its service can crash."""

    def __init__(self, directory: Path, disks: dict[str, bytes], forker: ServiceForker) -> None:
        self._forker = forker
        self._address = directory / "daemon"
        self._daemon: Any = RemoteObject(self._address)
        self._crashes: list[int] = []
        self._pid = 0
        super().__init__(directory, disks)
        self.hook_faults = cast(HookFaults, _Tireless(RemoteObject(self._address).hook_faults, self.open))

    def open(self) -> Manager:
        """Starts services until one serves. Each is killed at the next of the points that were asked for."""
        for _ in range(_STARTS):
            crash_after = self._crashes.pop(0) if self._crashes else None
            self._pid = self._forker.fork(self._directory, self._address, crash_after)
            if self._pid or crash_after is None:
                break
        assert self._pid, f"the service does not start: {(self._directory / 'log').read_text()[-3000:]}"
        self.manager = cast(Manager, _Tireless(RemoteObject(self._address).manager, self.open))
        return self.manager

    def close(self) -> None:
        with suppress(Gone):
            self._daemon.end()

    def crash(self, points: list[int]) -> None:
        """Kills the service after so many points, the one that is started then after so many, and so on."""
        first, *self._crashes = points
        if first == 0:
            kill(self._pid)
        else:
            with suppress(Gone):
                self._daemon.crash_after(first)

    def cut_power(self) -> None:
        """Everything ends at once; disks stay attached."""
        names = {export.name for export in invariants.exports(self.manager)}
        kill(self._pid)
        self._crashes.clear()
        while pids := invariants.processes_of(names):
            for pid in pids:
                kill(pid)
        self.clock.boot()
        self.open()

    def abandon(self) -> None:
        """Ends what a sequence that failed has left."""
        if self._pid:
            kill(self._pid)
        with suppress(sqlite3.Error), invariants.reading(self.state) as store:
            names = [name for (name,) in store.execute("SELECT name FROM exports")]
            for pid in invariants.processes_of(names):
                kill(pid)

    @property
    def pid(self) -> int:
        return self._pid
