"""Runs a program of a test's own in the sandbox, where a server would be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloudmanager.confined import Confinement, Launch, Launched, Limits, Spawner, Stderr

PYTHON = "/usr/bin/python3"
"""What the sandbox shows of this machine has it."""
SECONDS = 60.0


@dataclass(frozen=True)
class Run:
    """A program that has ended."""

    output: str
    status: int | None


@contextmanager
def opened(path: Path | str, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def started(
    spawner: Spawner,
    command: list[str],
    prepare: Callable[[Confinement], Mapping[str, str]] = lambda _: {},
    listener: int | None = None,
) -> Iterator[tuple[Launched, Stderr]]:
    """`prepare` shows things, and its answer names them to the program: words of the command are replaced."""
    stderr = Stderr()
    try:
        with spawner.confinement() as confinement:
            names = prepare(confinement)
            arguments = [names.get(word, word) for word in command]
            launched = Launch(arguments, confinement, stderr, listener, Limits()).start(
                spawner, time.monotonic() + SECONDS
            )
        try:
            yield launched, stderr
        finally:
            launched.finish()
    finally:
        stderr.close()


def run(
    spawner: Spawner,
    command: list[str],
    prepare: Callable[[Confinement], Mapping[str, str]] = lambda _: {},
    listener: int | None = None,
) -> Run:
    """To its end."""
    with started(spawner, command, prepare, listener) as (launched, stderr):
        assert launched.server.wait(SECONDS)
        return Run(stderr.read(), launched.reap())
