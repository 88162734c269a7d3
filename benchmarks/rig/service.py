"""A cloudmanager of the benchmark's own, in a directory that goes away."""

import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from benchmarks.rig import leftovers
from benchmarks.rig.cgroup import group
from benchmarks.rig.execution import ExecutionContext
from benchmarks.rig.ports import free_ports

START_SECONDS = 60
CLOSE_SECONDS = 60
QUIET = {"log_level": "warning"}
_LOOK_SECONDS = 0.005


Tables = Mapping[str, Mapping[str, object]]
"""Of the configuration, by name."""


@dataclass(frozen=True)
class Export:
    id: str
    uri: str
    credentials: Mapping[str, str] | None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        """Of the service's answer, which must be that it is ready."""
        assert answer.get("state") == "ready", answer
        return cls(answer["id"], answer["uri"], answer["credentials"])

    def authenticated(self, directory: Path, certificates: Path | None = None) -> str:
        """The address with what the NBD tools need for TLS; the key is put into a file of the directory.

        `certificates` is the client's directory of them, where the service wants to see one.
        """
        if certificates:
            return f"{self.uri}?tls-certificates={certificates}"
        if self.credentials is None:
            return self.uri
        username, key = self.credentials["username"], self.credentials["key"]
        file = directory / f"{self.id}.psk"
        file.write_text(f"{username}:{key}\n")
        return f"{self.uri.replace('://', f'://{username}@')}?tls-psk-file={file}"


@dataclass
class Service:
    """`cloudmanager serve`, which can be killed and started again."""

    context: ExecutionContext
    directory: Path
    url: str
    environment: Mapping[str, str]
    token: str
    client: httpx.Client = field(init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        self.client = httpx.Client(base_url=self.url, headers=headers, timeout=300, trust_env=False)

    @property
    def images(self) -> Path:
        """The directory that its provider `local` exports."""
        return self.directory / "images"

    @property
    def port(self) -> int:
        """That it listens on."""
        return urlsplit(self.url).port or 0

    @property
    def _configuration(self) -> Path:
        return self.directory / "cloudmanager.toml"

    @property
    def pid(self) -> int:
        """The daemon's."""
        assert self._process
        return self._process.pid

    def start(self) -> None:
        """Returns when it is ready, which it is when it has taken over what an earlier one left."""
        command = [sys.executable, "-m", "cloudmanager", "serve", "--config", str(self._configuration)]
        with (self.directory / "log").open("ab") as log:
            self._process = self.context.start(command, stdout=log, stderr=log, environment=self.environment)
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the service did not start:\n{(self.directory / 'log').read_text()[-4000:]}")
            time.sleep(_LOOK_SECONDS)

    def kill(self) -> None:
        """As a crash does. What it serves goes on being served."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        if self._process:
            self._end(signal.SIGTERM)
        self.client.close()

    def export(self, disk: str, holder: str = "benchmark", access: str = "read-only") -> Export:
        """Returns when it is ready."""
        request = {"disk": disk, "access": access, "holder": holder}
        answer = self.client.post("/v1/exports", json=request, headers={"Prefer": "wait=60"})
        return Export.of(answer.raise_for_status().json())

    @contextmanager
    def connected(self) -> Iterator[Callable[[str], Export]]:
        """A client with a connection of its own, which takes a third of the processor time that httpx takes.

        It is called with a disk, and returns when that is served.
        """
        where = urlsplit(self.url)
        with closing(http.client.HTTPConnection(where.hostname or "", where.port, timeout=300)) as connection:

            def export(disk: str) -> Export:
                body = json.dumps({"disk": disk, "access": "read-only", "holder": "benchmark"})
                connection.request("POST", "/v1/exports", body, headers)
                answer = connection.getresponse()
                return Export.of(json.loads(answer.read()))

            headers = {"Content-Type": "application/json", "Prefer": "wait=60", "Authorization": f"Bearer {self.token}"}
            yield export

    def release(self, export: Export) -> None:
        """Returns when it is closed."""
        self.client.delete(f"/v1/exports/{export.id}").raise_for_status()
        deadline = time.monotonic() + CLOSE_SECONDS
        while self.client.get(f"/v1/exports/{export.id}").json()["state"] == "closing":
            assert time.monotonic() < deadline, f"export {export.id} does not close"
            time.sleep(_LOOK_SECONDS)

    def _is_ready(self) -> bool:
        try:
            return self.client.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def _end(self, how: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(how)
        self._process.wait(timeout=CLOSE_SECONDS)
        self._process = None


@contextmanager
def running_service(
    tables: Tables | None = None,
    *,
    address: str = "127.0.0.1",
    context: ExecutionContext | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """`tables` are added to the configuration. Without a `context` it has a group of its own."""
    with ExitStack() as cleanup:
        directory = cleanup.enter_context(leftovers.directory())
        (directory / "images").mkdir()
        listen = f"{address}:{free_ports(1, address)[0]}"
        token = secrets.token_urlsafe()
        allowed = [sha256(token.encode()).hexdigest()]
        local = {"type": "local", "images": [str(directory / "images")], "devices": True}
        _configure(
            directory,
            {
                "server": {"listen": listen, "state_dir": f"{directory}/state", "token_sha256": allowed, **QUIET},
                "providers.local": local,
                **(tables or {}),
            },
        )
        context = context or ExecutionContext(cleanup.enter_context(group()))
        service = Service(context, directory, f"http://{listen}", {**os.environ, **(environment or {})}, token)
        cleanup.callback(service.close)
        service.start()
        yield service


def _configure(directory: Path, tables: Tables) -> None:
    lines: list[str] = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    (directory / "cloudmanager.toml").write_text("\n".join(lines) + "\n")
