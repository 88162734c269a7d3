"""Processes that belong to the demo, known by a name on their command line that nothing else has."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

RETRY_SECONDS = 5


def processes(name: str) -> dict[int, str]:
    """The program of each process but this one whose command line contains the name, by pid."""
    return {pid: arguments[0] for pid, arguments in _command_lines() if any(name in each for each in arguments)}


def end_processes(name: str) -> None:
    """Terminates them, and kills those that do not end. An interrupted service may have left them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + RETRY_SECONDS
        for pid in processes(name):
            _signal(pid, number)
        while processes(name) and time.monotonic() < deadline:
            time.sleep(0.02)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended by itself


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it has just ended
        yield int(entry.name), arguments
