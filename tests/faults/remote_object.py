"""Objects of another process, whose methods are called as if they were here."""

from __future__ import annotations

import os
import traceback
from multiprocessing.connection import Client, Connection, Listener
from operator import attrgetter
from pathlib import Path

_KEY = b"faults"
"""The socket's directory is the test's own; the protocol wants a key all the same."""


class Gone(Exception):
    """The other process ended, before or after it did what it was asked for."""


class RemoteObject:
    """What `path` names in what `serve` serves at an address: `RemoteObject(address).manager.get(export_id)`.

    Each call has a connection of its own: a process that is forked shares none with its parent.
    """

    def __init__(self, address: Path, path: str = "") -> None:
        self._address = address
        self._path = path

    def __getattr__(self, name: str) -> RemoteObject:
        if name.startswith("__"):
            raise AttributeError(name)
        return RemoteObject(self._address, f"{self._path}.{name}" if self._path else name)

    def __call__(self, *arguments: object, **named: object) -> object:
        try:
            with Client(str(self._address), authkey=_KEY) as connection:
                connection.send((self._path, arguments, named))
                answer, error = connection.recv()
        except (EOFError, OSError) as lost:
            raise Gone(self._path) from lost
        if error is not None:
            raise error
        answered: object = answer
        return answered


def serve(target: object, address: Path, ready: int) -> None:
    """Lets `target` be called until this process ends, one call at a time; then a byte is written to `ready`."""
    with Listener(str(address), backlog=64, authkey=_KEY) as listener:
        os.write(ready, b"\n")
        while True:
            with listener.accept() as connection:
                _answer(target, connection)


def _answer(target: object, connection: Connection) -> None:
    path, arguments, named = connection.recv()
    try:
        answer, error = attrgetter(path)(target)(*arguments, **named), None
    except Exception as raised:
        traceback.print_exc()
        answer, error = None, raised
    connection.send((answer, error))
