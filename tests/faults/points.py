"""The points at which a service can be killed: around each store write and hook, and wherever a process is started."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from sqlalchemy import Connection

from cloudmanager import hookimpl
from cloudmanager.core import store
from cloudmanager.core.hookspecs import MANDATORY_HOOKS
from cloudmanager.core.settings import Settings
from cloudmanager.core.store.database import Database

_AUDITED = ("socket.connect", "shutil.rmtree", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
"""What Python tells of a service that starts and stops servers: handshakes, keys, overlays, device nodes."""

_STORE = Path(store.__file__).parent

_SHIM = """#!/bin/sh
if read -r service 2>/dev/null < {armed} && [ "$service" = "$PPID" ]; then rm {armed}; kill -KILL "$PPID"; fi
exec {program} "$@"
"""


class Points:
    """Notes each point that is reached, and kills this process at one of them.

    A point is named by what happens there and how often that happened before, so that threads that overtake each other
    change nothing.
    """

    def __init__(self, directory: Path, kill_at: str | None = None) -> None:
        self._log = directory / "points"
        self._armed = directory / "armed"
        self._binaries = directory / "bin"
        self._kill_at = kill_at
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def reach(self, name: str) -> None:
        if self._note(name):
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        self.reach(f"before {name}")
        yield
        self.reach(f"after {name}")

    def watch_this_process(self) -> None:
        """From now on the service's threads reach points also where no seam of ours is. The client's do not."""
        program = shutil.which("bwrap")
        self._binaries.mkdir(exist_ok=True)
        shim = self._binaries / "bwrap"
        shim.write_text(_SHIM.format(armed=self._armed, program=program))
        shim.chmod(0o755)
        os.environ["PATH"] = f"{self._binaries}:{os.environ['PATH']}"
        sys.addaudithook(self._audit)

    def _note(self, name: str) -> bool:
        with self._lock:
            self._counts[name] += 1
            point = f"{name} #{self._counts[name]}"
            with self._log.open("a") as log:
                log.write(f"{point}\n")
            return point == self._kill_at

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("subprocess.Popen", "os.posix_spawn"):
            self.reach("before spawn")
            if self._note("after spawn"):
                # The child kills its parent before it does anything else. If another point kills the parent first, the
                # file stays: it must not kill the next service.
                self._armed.write_text(f"{os.getpid()}\n")
        elif event == "http.client.send" and not _is_a_look():
            self.reach("before a request to the cloud")
        elif event in _AUDITED and not _is_the_clients() and not _is_the_clouds(arguments):
            self.reach(f"before {event}")


class Countdown(Points):
    """Kills this process when so many points were reached, whichever they are."""

    def __init__(self, directory: Path, left: int | None) -> None:
        """None: never."""
        super().__init__(directory)
        self.left = left

    def _note(self, name: str) -> bool:  # noqa: ARG002 - all count alike
        with self._lock:
            if self.left is None:
                return False
            self.left -= 1
            return self.left < 0


class CrashingDatabase(Database):
    """Every write transaction has a point before it begins and one after it was committed."""

    points: ClassVar[Points]

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self.points.around(_writer(sys._getframe())), super().write() as connection:
            yield connection


def _is_a_look() -> bool:
    """It looks at what is served, by the clock; it changes nothing, and how often it comes is no part of a scenario."""
    return threading.current_thread().name.startswith("drift-")


def _is_the_clients() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_the_clouds(arguments: tuple[Any, ...]) -> bool:
    return "/file_cloud/" in str(arguments[0])


def crashing_database(points: Points) -> type[CrashingDatabase]:
    return type("BoundDatabase", (CrashingDatabase,), {"points": points})


def _writer(frame: FrameType | None) -> str:
    """The table of the store that is written, and the method that does it."""
    name = ""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.parent == _STORE:
            name = f"{file.stem}.{frame.f_code.co_name}"
        frame = frame.f_back
    return name


def _wrapper(hook: str) -> Callable[[CrashingHooks], Generator[None, object, object]]:
    @hookimpl(wrapper=True)
    def wrapper(self: CrashingHooks) -> Generator[None, object, object]:
        if _is_a_look():
            return (yield)
        with self.points.around(hook):
            return (yield)

    return wrapper


class CrashingHooks:
    """A plugin that wraps every hook of every provider."""

    def __init__(self, points: Points) -> None:
        self.points = points


for _hook in MANDATORY_HOOKS:
    setattr(CrashingHooks, _hook, _wrapper(_hook))


def on_a_machine_of_its_own(settings: Settings) -> Settings:
    """Other worlds have the same disks, and run beside it: they must not see its locks."""
    lock_dir = settings.server.state_dir.parent / "locks"
    return settings.model_copy(update={"server": settings.server.model_copy(update={"lock_dir": lock_dir})})
