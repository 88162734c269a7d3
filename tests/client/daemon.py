"""`cloudmanager serve` as a process that can be stopped, killed and started again."""

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.ports import free_ports
from tests.waiting import BOUND, eventually

PORTS_EACH = 40
SIZE = 1 << 20
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""The service speaks none here. A default context reads all certificates of the machine, 20 ms for each client."""


class Daemon:
    """A service with the local provider on `directory/images`, on a port that stays the same."""

    def __init__(self, directory: Path, **tables: Mapping[str, object]) -> None:
        ports = free_ports(1 + PORTS_EACH)
        self.directory = directory
        self.images = directory / "images"
        self.images.mkdir(exist_ok=True)
        self.tables: dict[str, Mapping[str, object]] = {
            "server": {"listen": f"127.0.0.1:{ports.start}", "state_dir": str(directory / "state"), "node": "here"},
            "nbd": {"ports": f"{ports.start + 1}-{ports[-1]}"},
            "exports": {"drain_seconds": 0, "reconcile_seconds": 0.2},
            "providers": {"local": {"type": "local", "images": [str(self.images)]}},
        }
        for name, table in tables.items():
            self.tables[name] = {**self.tables.get(name, {}), **table}
        listen = str(self.tables["server"]["listen"])
        self.url = listen if listen.startswith("unix:") else f"http://{listen}"
        self.environment: dict[str, str] = {}
        self.token: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def image(self, name: str, content: bytes | None = None) -> bytes:
        """Makes an image, of random bytes if none are given."""
        content = os.urandom(SIZE) if content is None else content
        (self.images / name).write_bytes(content)
        return content

    def start(self) -> None:
        configuration = self.directory / "cloudmanager.toml"
        configuration.write_text("\n".join(_toml(self.tables)))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDMANAGER_")}
        with (self.directory / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cloudmanager", "serve", "--config", configuration],
                env={**kept, **self.environment},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )

    def started(self) -> None:
        """Starts it and waits until it answers."""
        self.start()
        eventually(self._answers)

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(BOUND)

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def raw(self) -> Iterator[httpx.Client]:
        """A client that is not the one under test."""
        transport = httpx.HTTPTransport(uds=self.url.removeprefix("unix:")) if self.url.startswith("unix:") else None
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        base = "http://localhost" if transport else self.url
        with httpx.Client(
            base_url=base, transport=transport, headers=headers, trust_env=False, timeout=20, verify=_NO_TLS
        ) as client:
            yield client

    def exports(self) -> list[dict[str, object]]:
        with self.raw() as client:
            found: list[dict[str, object]] = client.get("/v1/exports").raise_for_status().json()["items"]
            return found

    def state_of(self, export_id: str) -> object:
        with self.raw() as client:
            return client.get(f"/v1/exports/{export_id}").json()["state"]

    def release(self, export_id: str) -> None:
        with self.raw() as client:
            client.delete(f"/v1/exports/{export_id}").raise_for_status()

    def server_pid(self, export_id: str) -> int:
        """Of the qemu-nbd that serves the export, found by the export's name on its command line."""
        with self.raw() as client:
            pid = server_at(client.get(f"/v1/exports/{export_id}").json()["uri"])
        assert pid, "no qemu-nbd has the export's name"
        return pid

    def end(self) -> None:
        """Ends every export, and the service."""
        if self._process is None:
            return
        if self._process.poll() is not None:
            self.started()
        for export in self.exports():
            if export["state"] not in ("closed", "failed"):
                self.release(str(export["id"]))
        eventually(lambda: all(export["state"] in ("closed", "failed") for export in self.exports()))
        self.stop()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "serve.log").read_text()
        if self.url.startswith("unix:") and not Path(self.url.removeprefix("unix:")).is_socket():
            return False
        try:
            with self.raw() as client:
                return client.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False


def server_at(uri: str) -> int | None:
    """The qemu-nbd that serves an address."""
    name = uri.rpartition("/")[2].encode()
    entries = (entry for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return next((int(entry.name) for entry in entries if _is_server(entry, name)), None)


def _is_server(entry: Path, name: bytes) -> bool:
    try:
        command = (entry / "cmdline").read_bytes()
    except OSError:
        return False
    return Path(os.fsdecode(command.partition(b"\0")[0])).name in ("qemu-nbd", "nbdkit") and name in command


def _toml(tables: Mapping[str, Mapping[str, object]], prefix: str = "") -> Iterator[str]:
    """JSON's texts, numbers and lists are TOML's too."""
    for name, table in tables.items():
        yield f"[{prefix}{name}]"
        yield from (f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict))
        yield from _toml({key: value for key, value in table.items() if isinstance(value, dict)}, f"{prefix}{name}.")
