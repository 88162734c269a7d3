"""The service that the demo talks to: a process of its own, on embedded defaults."""

import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from cloudmanager.core.errors import CloudManagerError

START_SECONDS = 60
CLOSE_SECONDS = 15
PAUSE_SECONDS = 0.02

CONFIGURATION = """\
[server]
listen = "127.0.0.1:{port}"
state_dir = "{directory}/state"
[exports]
drain_seconds = 1
[providers.local]
type = "local"
images = ["{directory}/images"]
"""


class Service:
    """`cloudmanager serve` below one directory."""

    def __init__(self, directory: Path, configuration: str = CONFIGURATION) -> None:
        """`configuration` has places for {port} and {directory}."""
        self._configuration = directory / "cloudmanager.toml"
        self._log = directory / "service.log"
        self._process: subprocess.Popen[bytes] | None = None
        port = _free_port()
        self._configuration.write_text(configuration.format(port=port, directory=directory))
        self.url = f"http://127.0.0.1:{port}"
        self.command = ("cloudmanager", "serve", "--config", str(self._configuration))

    def start(self) -> float:
        """Returns when it is ready, after so many seconds. Raises CloudManagerError with the end of its log."""
        began = time.monotonic()
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C is for the demo, which releases the export before it stops the service.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cloudmanager", *self.command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() - began > START_SECONDS:
                raise CloudManagerError(f"The service did not start. The end of its log:\n{self._end_of_log()}")
            time.sleep(PAUSE_SECONDS)
        return time.monotonic() - began

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The JSON of the response. Raises CloudManagerError with the service's own message."""
        try:
            answer = httpx.request(
                method, self.url + path, json=body, headers={"Prefer": "wait=10"}, timeout=20, trust_env=False
            )
        except httpx.HTTPError as error:
            raise CloudManagerError(f"The service did not answer: {error}\n{self._end_of_log()}") from error
        content: dict[str, Any] = answer.json()
        if answer.is_error:
            raise CloudManagerError(f"{method} {path} was answered with {answer.status_code}: {content.get('detail')}")
        return content

    def release(self, export_id: str) -> None:
        """Returns when the export is over."""
        deadline = time.monotonic() + CLOSE_SECONDS
        state = self.call("DELETE", f"/v1/exports/{export_id}")["state"]
        while state not in ("closed", "failed"):
            if time.monotonic() > deadline:
                raise CloudManagerError(f"The export is still {state} after {CLOSE_SECONDS} s.")
            time.sleep(PAUSE_SECONDS)
            state = self.call("GET", f"/v1/exports/{export_id}")["state"]

    def release_everything(self) -> None:
        """Releases what is still exported after a failure: exports outlive the service."""
        if self._process is None:
            return
        with suppress(CloudManagerError):  # the service is gone as well
            for export in self.call("GET", "/v1/exports")["items"]:
                self.release(export["id"])

    def stop(self) -> None:
        """Returns when it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def _end_of_log(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
