"""The service as an administrator runs it: a process of its own, with its local disks, reached through a socket."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.core.nbd.client import Client
from tests.waiting import eventually

BOUND = 60.0
_CONFIGURATION = """
[server]
listen = "unix:{directory}/socket"
state_dir = "{state}"
node = "here"

[nbd]
ports = "30000-30999"

[exports]
drain_seconds = 0
reconcile_seconds = 0.2

[providers.local]
type = "local"
images = ["{disks}"]
"""


class Daemon:
    """Started, stopped and killed; its exports outlive it."""

    def __init__(self, directory: Path, state: Path) -> None:
        self.disks = directory / "disks"
        self.disks.mkdir()
        self.state = state
        self.configuration = directory / "cloudmanager.toml"
        self.configuration.write_text(_CONFIGURATION.format(directory=directory, state=state, disks=self.disks))
        self._socket = directory / "socket"
        transport = httpx.HTTPTransport(uds=str(self._socket))
        self.client = httpx.Client(transport=transport, base_url="http://localhost", timeout=BOUND)
        self._process: subprocess.Popen[str] | None = None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`cloudmanager …` with this configuration."""
        command = [*_program(arguments), f"--config={self.configuration}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=BOUND, check=False)

    def start(self) -> None:
        """Returns when it answers."""
        with (self.configuration.parent / "log").open("a") as log:
            self._process = subprocess.Popen(
                [*_program(("serve",)), f"--config={self.configuration}"], stderr=log, text=True
            )
        eventually(lambda: self._answers() or self._has_ended())
        assert not self._has_ended(), (self.configuration.parent / "log").read_text()[-3000:]

    def stop(self) -> None:
        self._end(kill=False)

    def kill(self) -> None:
        self._end(kill=True)

    def export(self, disk: str, access: str = "read-only") -> httpx.Response:
        body = {"disk": f"local:{disk}", "access": access, "holder": "alice"}
        return self.client.post("/v1/exports", json=body, headers={"Prefer": "wait=30"})

    def ready(self, disk: str, access: str = "read-only") -> dict[str, Any]:
        answer = self.export(disk, access)
        assert answer.status_code == 201, answer.text
        export: dict[str, Any] = answer.json()
        assert export["state"] == "ready", export
        return export

    def get(self, export: Mapping[str, Any]) -> dict[str, Any]:
        answer = self.client.get(f"/v1/exports/{export['id']}").raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def release(self, export: Mapping[str, Any]) -> httpx.Response:
        return self.client.delete(f"/v1/exports/{export['id']}")

    def readiness(self) -> tuple[int, str]:
        """The status of /readyz, and what it says of the store."""
        answer = self.client.get("/readyz")
        (store,) = [each for each in answer.json()["findings"] if each["subject"] == "store"]
        return answer.status_code, store["seen"]

    def connect(self, export: Mapping[str, Any]) -> Client:
        port, _, name = export["uri"].rpartition(":")[2].partition("/")
        return Client.greeted(int(port), name)

    def close(self) -> None:
        """Nothing goes on."""
        try:
            if not self._has_ended():
                for export in self.exports():
                    self.release(export)
                eventually(lambda: all(e["state"] in ("closed", "failed") for e in self.exports()))
        finally:
            if not self._has_ended():
                self.stop()
            self.client.close()

    def exports(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.client.get("/v1/exports").json()["items"]
        return items

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _answers(self) -> bool:
        with closing(socket.socket(socket.AF_UNIX)) as probe, suppress(OSError):
            probe.connect(str(self._socket))
            return self.client.get("/healthz").status_code == 200
        return False

    def _end(self, *, kill: bool) -> None:
        assert self._process
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(BOUND)


def _program(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "cloudmanager", *arguments]
