"""QEMU's machine protocol: commands and events of a running virtual machine, as lines of JSON on a socket.

https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_COMMAND_SECONDS = 30.0


class QmpError(Exception):
    """QEMU refused a command, or did not answer in time."""


class Channel:
    """A connection that speaks lines of JSON. One command at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = b""
        self._events: list[dict[str, Any]] = []

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float = _COMMAND_SECONDS
    ) -> Any:
        """What the command returns. Raises QmpError."""
        deadline = time.monotonic() + timeout
        request = json.dumps({"execute": command, "arguments": dict(arguments or {})})
        with self._in_time(command):
            self._socket.settimeout(timeout)
            self._socket.sendall(request.encode() + b"\n")
            answer = next(line for line in self._lines(deadline) if "return" in line or "error" in line)
        if "error" in answer:
            raise QmpError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def wait_for(self, event: str, timeout: float = _COMMAND_SECONDS, **data: object) -> None:
        """Returns when an event with these data has come, or if it came since the last look. Raises QmpError."""
        deadline = time.monotonic() + timeout

        def is_wanted(found: Mapping[str, Any]) -> bool:
            return bool(found["event"] == event and data.items() <= found["data"].items())

        while not any(map(is_wanted, self._events)):
            with self._in_time(event):
                next(self._lines(deadline))
        self._events = [found for found in self._events if not is_wanted(found)]

    def _lines(self, deadline: float) -> Iterator[dict[str, Any]]:
        while True:
            line = json.loads(self._line(deadline))
            if "event" in line:
                self._events.append(line)
            yield line

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._rest:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            received = self._socket.recv(65536)
            if not received:
                raise ConnectionResetError
            self._rest += received
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    @contextmanager
    def _in_time(self, what: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise QmpError(f"{what}: QEMU did not answer in time") from error
        except OSError as error:
            raise QmpError(f"{what}: QEMU has ended") from error


class Qmp(Channel):
    """The monitor of a machine: the other end of its `-qmp unix:PATH`, where it connects to."""

    def __init__(self, connection: socket.socket) -> None:
        """Raises QmpError."""
        super().__init__(connection)
        self.execute("qmp_capabilities")
