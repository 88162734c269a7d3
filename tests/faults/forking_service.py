"""Forks services from a process that has imported everything and has no threads, so that they can be killed.

Run as `python -m tests.faults.forking_service`. A line of JSON, `{"directory": …, "crash_after": …}`, asks for a
service of the world in the directory. The answer is a line with its process id once it serves, or 0 if it ended before.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from tests.faults.points import Countdown
from tests.faults.remote_object import serve
from tests.faults.world import World


class Daemon:
    """A service that another process uses, and can let crash."""

    def __init__(self, directory: Path, crash_after: int | None) -> None:
        self._points = Countdown(directory, crash_after)
        self._points.watch_this_process()
        self._world = World(directory, {}, self._points)
        self.manager = self._world.manager
        self.hook_faults = self._world.hook_faults

    def crash_after(self, points: int) -> None:
        self._points.left = points

    def end(self) -> NoReturn:
        self.manager.close()
        os._exit(0)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for what ends here
    for line in sys.stdin:
        answer = _fork(**json.loads(line))
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _fork(directory: str, address: str, crash_after: int | None) -> int:
    ended, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ended)
        _become(Path(directory), Path(address), crash_after, ready)
    os.close(ready)
    serves = os.read(ended, 1)
    os.close(ended)
    return child if serves else 0


def _become(directory: Path, address: Path, crash_after: int | None, ready: int) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        logging.basicConfig(level=logging.INFO)
        address.unlink(missing_ok=True)
        serve(Daemon(directory, crash_after), address, ready)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
