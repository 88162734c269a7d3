"""A manager with a cloud of files, in this process; clocks that jump, a cloud that fails, an operator at work."""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from math import nan
from pathlib import Path

from cloudmanager import hookimpl
from cloudmanager.core.clock import Clock
from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Export, ExportState
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.settings import from_tables
from cloudmanager.core.statedir import StateDirectory
from cloudmanager.core.store import Store
from cloudmanager.core.store.database import Database
from cloudmanager.core.wiring import assemble
from tests.faults import invariants
from tests.faults.file_cloud import SOMEBODY, FileCloud, FileCloudPlugin
from tests.faults.points import CrashingHooks, Points, crashing_database, on_a_machine_of_its_own

_READY = ExportState.READY
HOOKS_THAT_FAIL = ("plan_attach", "attach", "locate", "detach")
_BOUND_SECONDS = 30.0
_LOOK_SECONDS = 0.01
_READINGS = struct.Struct("ddq")
_JUMP_SECONDS = 5.0
_PATIENCE_LOOKS = 20
"""After that many, time is made to pass, so that nobody waits for a back-off."""


class JumpingClock(Clock):
    """Time passes, the wall clock jumps, and the machine boots: for every process that has the file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._machine = self.boot_id[:8]
        with file.open("a+b") as opened:
            opened.truncate(_READINGS.size)
            self._readings = mmap.mmap(opened.fileno(), _READINGS.size)
        self._read_boot()

    @property
    def passed(self) -> float:
        """Seconds."""
        return float(_READINGS.unpack(self._readings)[0])

    @passed.setter
    def passed(self, seconds: float) -> None:
        self._write(seconds, self.jumped, self._boots)

    @property
    def jumped(self) -> timedelta:
        return timedelta(seconds=_READINGS.unpack(self._readings)[1])

    @jumped.setter
    def jumped(self, jumped: timedelta) -> None:
        self._write(self.passed, jumped, self._boots)

    def boottime(self) -> float:
        return super().boottime() + self.passed

    def now(self) -> datetime:
        return super().now() + self.jumped + timedelta(seconds=self.passed)

    def boot(self) -> None:
        """The boot clock starts again."""
        self._write(-1000.0, self.jumped + timedelta(seconds=self.passed + 1000), self._boots + 1)
        self._read_boot()

    def _write(self, passed: float, jumped: timedelta, boots: int) -> None:
        self._readings[:] = _READINGS.pack(passed, jumped.total_seconds(), boots)

    def _read_boot(self) -> None:
        self._boots = int(_READINGS.unpack(self._readings)[2])
        self.boot_id = f"{self._machine}-{self._boots}"


class HookFaults:
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


def _wrapper(hook: str) -> Callable[[HookFaults], Generator[None, object, object]]:
    @hookimpl(wrapper=True)
    def wrapper(self: HookFaults) -> Generator[None, object, object]:
        return (yield from self.around(hook))

    return wrapper


for _hook in HOOKS_THAT_FAIL:
    setattr(HookFaults, _hook, _wrapper(_hook))


class World:
    """The manager and everything around it."""

    def __init__(self, directory: Path, disks: dict[str, bytes], points: Points | None = None) -> None:
        """`points`: where its services can be killed."""
        self.file_cloud = FileCloud(directory / "files")
        for name, content in disks.items():
            (self.file_cloud.disks / name).write_bytes(content)
        self._directory = directory
        self.state = directory / "state"
        self.clock = JumpingClock(directory / "clock")
        self.hook_faults = HookFaults()
        settings = from_tables(
            {
                "server": {"state_dir": str(self.state), "node": "here"},
                # Kept so long that no jump of the wall clock leaves a story without its export.
                "exports": {"drain_seconds": 0, "reconcile_seconds": 0.05, "keep_closed_seconds": 10**9},
                "nbd": {"ports": "29000-29999"},
            }
        )
        self.settings = on_a_machine_of_its_own(settings)
        self.plugins: list[tuple[str, object]] = [("hook_faults", self.hook_faults)]
        """Of the next service that is opened, besides the cloud's."""
        self._points = points
        if points:
            self.plugins.append(("points", CrashingHooks(points)))
        self.manager = self.open()

    def open(self) -> Manager:
        state = StateDirectory.open(self.state)
        database = crashing_database(self._points) if self._points else Database
        store = Store(database.open(self.settings.store_url), self.clock)
        self.manager = assemble(self.settings, self.loaded(), store, self.clock, state)
        self.manager.start()
        return self.manager

    def close(self) -> None:
        self.manager.close()

    def loaded(self) -> Plugins:
        file_cloud = FileCloud(self._directory / "files", self._points.reach) if self._points else self.file_cloud
        plugins = Plugins([("files", FileCloudPlugin(file_cloud)), *self.plugins])
        plugins.configure({"files": {"type": "files"}})
        return plugins

    def restart(self) -> None:
        self.close()
        self.open()

    def reboot(self) -> None:
        self.shut_down()
        self.open()

    def shut_down(self) -> None:
        """No process survives; disks stay attached."""
        pids = self.servers().values()
        self.close()
        for pid in pids:
            kill(pid)
        self.clock.boot()

    @property
    def pid(self) -> int:
        """Of the process that the manager is in."""
        return os.getpid()

    def kill_server(self, export: Export) -> None:
        if pid := self.servers().get(export.name):
            kill(pid)

    def stop_server(self, export: Export) -> None:
        """It goes on when it is told to."""
        if pid := self.servers().get(export.name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def servers(self) -> dict[str, int]:
        """The names of this world's exports, also of those that are over → the process that serves them."""
        names = {export.name for export in invariants.exports(self.manager)}
        return {name: pid for name, pid in invariants.servers() if name in names}

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
        self.hook_faults.clear()
        for export in invariants.exports(self.manager):
            self.manager.release(export.id)
        self.settle()
        servers = self.servers()
        self.close()
        assert servers == {}
        assert [*invariants.left_over(self.state)] == []

    def attached(self) -> dict[str, bool]:
        """The disks that this machine has → whether they were attached by hand."""
        return {name: holder.owner == SOMEBODY for name, holder in self.file_cloud.holders().items()}

    def _unnoticed(self, exports: Sequence[Export]) -> Iterator[str]:
        """A detach by hand, or a jump of the wall clock, which is noted so that a reboot makes no difference."""
        attached = self.file_cloud.holders()
        for export in exports:
            if export.state is _READY and export.disk.id.native not in attached:
                yield f"{export.id} is ready, and its disk is not attached"
        offset = self.clock.now().timestamp() - self.clock.boottime()
        if not abs(offset - self._noted_offset()) < _JUMP_SECONDS:
            yield "the wall clock has jumped"

    def _noted_offset(self) -> float:
        """Of the wall clock to the boot clock, when the service was last seen."""
        try:
            seen = json.loads((self.state / "last-seen.json").read_text())
        except FileNotFoundError:
            return nan
        return float(seen["wall"] - seen["boottime"])

    def _expired(self) -> list[str]:
        with invariants.reading(self.state) as store:
            live = "state NOT IN ('closing', 'closed', 'failed')"
            query = f"SELECT id FROM exports WHERE {live} AND expires_boottime <= ?"  # noqa: S608 - words of ours
            return [f"{row[0]} has expired" for row in store.execute(query, [self.clock.boottime()])]

    def _unsettled(self) -> list[str]:
        self.manager.nodes()  # so that a service that has crashed is started
        if expired := self._expired():  # before the states: what the service finds expired afterwards is closing there
            return expired
        exports = invariants.exports(self.manager)
        changing = [f"{e.id} is {e.state}: {e.error}" for e in exports if not (e.state is _READY or e.state.is_over)]
        if changing or (changing := [*invariants.wrongly_attached(self.manager, self.attached())]):
            return changing
        if late := [*self._unnoticed(exports)]:
            return late
        servers = self.servers()
        return [f"{e.id} has no server" for e in exports if e.state is _READY and e.name not in servers]


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        ended = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([ended], [], [], _BOUND_SECONDS)
        os.close(ended)
