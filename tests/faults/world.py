"""A manager on a depot, in this process, with clocks that jump, a cloud that fails, and an operator who interferes."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from cloudmanager import hookimpl
from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Export, ExportState
from cloudmanager.core.nbd import process
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.settings import from_tables
from tests.faults import invariants
from tests.faults.depot import Depot, DepotPlugin

_READY = ExportState.READY
HOOKS_THAT_FAIL = ("plan_attach", "attach", "locate", "detach")
_BOUND_SECONDS = 30.0
_LOOK_SECONDS = 0.01
_PATIENCE_LOOKS = 20
"""After that many, time is made to pass, so that nobody waits for a back-off."""


class JumpingClock(Clock):
    """Time passes, the wall clock jumps, and the machine boots."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0
        self.jumped = timedelta()

    def boottime(self) -> float:
        return super().boottime() + self.passed

    def now(self) -> datetime:
        return super().now() + self.jumped + timedelta(seconds=self.passed)

    def boot(self) -> None:
        """The boot clock starts again."""
        self.boot_id = f"{self.boot_id[:8]}-{os.urandom(4).hex()}"
        self.jumped += timedelta(seconds=self.passed + 1000)
        self.passed = -1000.0


class Weather:
    """A plugin that lets the hooks of every provider fail, before they act or after (so that the answer is lost)."""

    def __init__(self) -> None:
        self._before: dict[str, list[CloudManagerError]] = defaultdict(list)
        self._after: dict[str, list[CloudManagerError]] = defaultdict(list)

    def spoil(self, hook: str, error: CloudManagerError, *, is_late: bool) -> None:
        (self._after if is_late else self._before)[hook].append(error)

    def clear(self) -> None:
        self._before.clear()
        self._after.clear()

    def around(self, hook: str) -> Generator[None, object, object]:
        _raise_first(self._before[hook])
        answer = yield
        _raise_first(self._after[hook])
        return answer


def _raise_first(errors: list[CloudManagerError]) -> None:
    with suppress(IndexError):  # another thread may have taken it
        raise errors.pop(0)


def _wrapper(hook: str) -> Callable[[Weather], Generator[None, object, object]]:
    @hookimpl(wrapper=True)
    def wrapper(self: Weather) -> Generator[None, object, object]:
        return (yield from self.around(hook))

    return wrapper


for _hook in HOOKS_THAT_FAIL:
    setattr(Weather, _hook, _wrapper(_hook))


class World:
    """The manager and everything around it."""

    def __init__(self, directory: Path, disks: dict[str, bytes]) -> None:
        self.depot = Depot(directory / "depot")
        for name, content in disks.items():
            (self.depot.disks / name).write_bytes(content)
        self.state = directory / "state"
        self.clock = JumpingClock()
        self.weather = Weather()
        self.settings = from_tables(
            {
                "server": {"state_dir": str(self.state), "node": "here"},
                # Kept so long that no jump of the wall clock leaves a story without its export.
                "exports": {"drain_seconds": 0, "reconcile_seconds": 0.05, "keep_closed_seconds": 10**9},
                "nbd": {"ports": "29000-29999"},
            }
        )
        self.plugins: list[tuple[str, object]] = [("depot", DepotPlugin(self.depot)), ("weather", self.weather)]
        """Of the next service that is opened."""
        self.manager = self.open()

    def open(self) -> Manager:
        self.manager = Manager.open(self.settings, self.loaded(), self.clock)
        self.manager.start()
        return self.manager

    def loaded(self) -> Plugins:
        plugins = Plugins(self.plugins)
        plugins.configure({"depot": {"type": "depot"}})
        return plugins

    def restart(self) -> None:
        self.manager.close()
        self.open()

    def reboot(self) -> None:
        self.shut_down()
        self.open()

    def shut_down(self) -> None:
        """No process survives; disks stay attached."""
        pids = self.servers().values()
        self.manager.close()
        for pid in pids:
            _kill(pid)
        self.clock.boot()

    def kill_server(self, export: Export) -> None:
        if pid := self.servers().get(export.name):
            _kill(pid)

    def servers(self) -> dict[str, int]:
        """The names of this world's exports, also of those that are over → the process that serves them."""
        names = {export.name for export in invariants.exports(self.manager)}
        return {name: pid for name, pid in _running() if name in names}

    def settle(self) -> None:
        """Waits until everything is as it is to be. Raises AssertionError saying what is not."""
        waiting = threading.Event()
        for look in range(int(_BOUND_SECONDS / _LOOK_SECONDS)):
            if not (unsettled := self._unsettled()):
                return
            if look > _PATIENCE_LOOKS:
                self.clock.passed += 0.5
            waiting.wait(_LOOK_SECONDS)
        raise AssertionError(f"it does not settle: {unsettled}")

    def end(self) -> None:
        """Releases everything, and stops. Raises AssertionError when something is left."""
        self.weather.clear()
        for export in invariants.exports(self.manager):
            self.manager.release(export.id)
        self.settle()
        over = {export.id for export in invariants.exports(self.manager)}
        servers = self.servers()
        self.manager.close()
        assert servers == {}
        assert [*invariants.left_over(self.state, over)] == []

    def _unsettled(self) -> list[str]:
        exports = invariants.exports(self.manager)
        changing = [f"{e.id} is {e.state}: {e.error}" for e in exports if not (e.state is _READY or e.state.is_over)]
        if changing or (changing := [*invariants.wrongly_attached(self.manager, self.depot)]):
            return changing
        now = self.clock.boottime()
        records = self.manager._store.claiming_exports("here")
        late = [f"{record.id} has expired" for record in records if record.expires_boottime <= now]
        if late:
            return late
        servers = self.servers()
        return [f"{e.id} has no server" for e in exports if e.state is _READY and e.name not in servers]


def _running() -> Iterator[tuple[str, int]]:
    """Every qemu-nbd of this machine that serves an export, by the export's name."""
    for pid in process.all_pids():
        with suppress(OSError):
            words = process.command_line(pid)
            if words and Path(words[0]).name == "qemu-nbd":
                for word in words:
                    if word.startswith("--export-name="):
                        yield word.partition("=")[2], pid


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        ended = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([ended], [], [], _BOUND_SECONDS)
        os.close(ended)
