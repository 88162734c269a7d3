"""A client that asks for exports, reads them, renews some, releases some, and checks every answer."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.core.nbd.client import Client as NbdClient
from tests.load.latencies import Latencies

BLOCK = 4096
PAUSE_SECONDS = 0.25
"""Between two looks at what is not ready yet, or not there at the moment."""
RETRY_SECONDS = 60.0
"""For a service that is being started, a server that was killed, a cloud that is in no mood."""
THINKING_SECONDS = 1.0
"""On average, between two deeds."""


@dataclass(frozen=True)
class Disk:
    """What a client knows of a disk."""

    name: str
    first_block: bytes
    is_private: bool
    """Nobody else uses it, so it can be written to."""


class Wrong(Exception):
    """Something went wrong that nobody had a hand in."""


class Client(threading.Thread):
    """One user of the service, with a connection of its own, until it is told to stop."""

    def __init__(
        self, number: int, port: int, disks: Sequence[Disk], most_exports: int, stop: threading.Event, times: Latencies
    ) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.exports: dict[str, Disk] = {}
        self.wrong: Exception | None = None
        self.made = 0
        self._flushed: dict[Disk, bytes] = {}
        """What the second block of a disk must be."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._disks = disks
        self._most_exports = most_exports
        self._stop_asked = stop
        self._times = times
        self._chance = random.Random(number)  # noqa: S311 - no secret

    def run(self) -> None:
        try:
            while not self._stop_asked.wait(self._chance.expovariate(1 / THINKING_SECONDS)):
                self._do_something()
            for export_id in list(self.exports):
                self._release(export_id)
        except Exception as error:
            self.wrong = error
        finally:
            self._connection.close()

    def _do_something(self) -> None:
        if len(self.exports) < self._most_exports:
            self._export(self._chance.choice(self._disks))
            return
        deed = self._chance.choices([self._read, self._renew, self._look_around, self._release], [4, 2, 2, 2])[0]
        deed(self._chance.choice(list(self.exports)))

    def _export(self, disk: Disk) -> None:
        if disk.is_private and disk in self.exports.values():
            return  # it would be in its own way
        access = "read-write" if disk.is_private else self._chance.choice(["read-only", "scratch"])
        body = {"disk": f"files:{disk.name}", "access": access, "holder": self.name, "ttl_seconds": 3600}
        key = f"{self.name}-{self.made}"
        self.made += 1
        export = self._ask("POST", "/v1/exports", 201, body, {"Idempotency-Key": key})
        self.exports[export["id"]] = disk
        self._read(export["id"])

    def _read(self, export_id: str) -> None:
        """A server may be killed at any time: then it is there again soon, at the same address."""
        disk = self.exports[export_id]
        self._until(lambda: self._has_read(self._ready(export_id), disk), f"{export_id} cannot be read")

    def _has_read(self, export: dict[str, Any], disk: Disk) -> bool:
        flushed = self._flushed.get(disk)
        try:
            uri = urlsplit(export["uri"])
            with NbdClient.greeted(uri.port or 0, uri.path.removeprefix("/")) as nbd:
                first, second = nbd.read(0, BLOCK), nbd.read(BLOCK, BLOCK)
                if disk.is_private:
                    self._write(nbd, disk)
        except OSError:
            return False
        if first != disk.first_block:
            raise Wrong(f"{export['id']} serves another disk than {disk.name}")
        if flushed and second != flushed:
            raise Wrong(f"{disk.name} has lost what was flushed")
        return True

    def _write(self, nbd: NbdClient, disk: Disk) -> None:
        block = self._chance.randbytes(BLOCK)
        self._flushed.pop(disk, None)  # until the answer has come, either is right
        nbd.write(BLOCK, block)
        nbd.flush()
        self._flushed[disk] = block

    def _ready(self, export_id: str) -> dict[str, Any]:
        export: dict[str, Any] = {}

        def is_ready() -> bool:
            nonlocal export
            export = self._ask("GET", f"/v1/exports/{export_id}", 200)
            if export["state"] not in ("pending", "attaching", "ready"):
                raise Wrong(f"{export_id} is {export['state']}: {export['error']}")
            return bool(export["state"] == "ready")

        self._until(is_ready, f"{export_id} is not ready")
        return export

    def _renew(self, export_id: str) -> None:
        self._ask("POST", f"/v1/exports/{export_id}/renew", 200, {"ttl_seconds": 3600})

    def _look_around(self, _export_id: str) -> None:
        self._ask("GET", f"/v1/exports?holder={self.name}", 200)

    def _release(self, export_id: str) -> None:
        self._ask("DELETE", f"/v1/exports/{export_id}", 200)
        if self.exports.pop(export_id).is_private:  # it is claimed until its server has ended
            self._until(lambda: self._is_over(export_id), f"{export_id} does not end")

    def _is_over(self, export_id: str) -> bool:
        return bool(self._ask("GET", f"/v1/exports/{export_id}", 200)["state"] == "closed")

    def _ask(
        self, method: str, path: str, status: int, body: object = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Asks again while nobody answers: the service is being restarted."""
        answer: dict[str, Any] = {}

        def is_answered() -> bool:
            nonlocal answer
            asked = time.monotonic()
            try:
                self._connection.request(method, path, json.dumps(body) if body else None, _JSON | (headers or {}))
                response = self._connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException):
                self._connection.close()
                return False
            self._times.add(_kind(method, path), asked)
            if response.status == 503:
                return False  # it is about to stop
            if response.status != status:
                raise Wrong(f"{method} {path} was answered with {response.status}: {content.decode()}")
            answer = json.loads(content)
            return True

        self._until(is_answered, f"{method} {path} is not answered")
        return answer

    def _until(self, happened: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + RETRY_SECONDS
        while not happened():
            if time.monotonic() > deadline:
                raise Wrong(f"{otherwise} after {RETRY_SECONDS:.0f} s")
            time.sleep(PAUSE_SECONDS)


_JSON = {"Content-Type": "application/json"}


def _kind(method: str, path: str) -> str:
    if method == "POST":
        return "renew" if path.endswith("/renew") else "export"
    if method == "DELETE":
        return "release"
    return "list" if "?" in path else "get"
