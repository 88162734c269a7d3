"""A cloudmanager of the benchmark's own, on loopback, in a directory that goes away."""

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_SECONDS = 30


@dataclass(frozen=True)
class Service:
    """A running service. `images` is the directory that its provider `local` exports."""

    url: str
    pid: int
    images: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, trust_env=False)


@contextmanager
def running_service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="cm-bench-") as name:
        directory = Path(name)
        images = directory / "images"
        images.mkdir()
        port = free_port()
        config = directory / "cloudmanager.toml"
        config.write_text(_config(directory, images, port))
        command = [sys.executable, "-m", "cloudmanager", "serve", "--config", str(config)]
        with (directory / "log").open("wb") as log, subprocess.Popen(command, stderr=log, stdout=log) as process:
            try:
                url = f"http://127.0.0.1:{port}"
                _await_ready(url, process, directory / "log")
                yield Service(url, process.pid, images)
            finally:
                _release_all(url)
                process.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _config(directory: Path, images: Path, port: int) -> str:
    return f"""
[server]
listen = "127.0.0.1:{port}"
state_dir = "{directory}/state"
log_level = "warning"
[nbd]
ports = "23000-23999"
[providers.local]
type = "local"
images = ["{images}"]
"""


def _await_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    transport = httpx.HTTPTransport(retries=60)  # httpx backs off between connection attempts
    with httpx.Client(transport=transport, timeout=START_SECONDS, trust_env=False) as client:
        try:
            client.get(f"{url}/readyz").raise_for_status()
        except httpx.HTTPError as error:
            process.terminate()
            raise SystemExit(f"the service did not start: {error}\n{log.read_text()}") from error


def _release_all(url: str) -> None:
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        for state in ("pending", "attaching", "ready"):
            for export in client.get("/v1/exports", params={"state": state, "limit": 1000}).json()["items"]:
                client.delete(f"/v1/exports/{export['id']}")
