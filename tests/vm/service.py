"""cloudmanager as it runs in the test machine, and a client of it here."""

import json
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.vm.clouds import Cloud
from tests.vm.virtual_machine import ADDRESS, VirtualMachine

API_PORT = 8600
NBD_PORTS = range(10809, 10813)
START_SECONDS = 400
SETTLE_SECONDS = 180
CONFIGURATION = "/run/cloudmanager.toml"
LOG = "/run/cloudmanager.log"


@dataclass(frozen=True)
class Export:
    id: str
    name: str
    """The NBD export's."""
    uri: str
    """As it is reached from here."""


class Service:
    """`cloudmanager serve`, started in the machine; it outlives this object."""

    def __init__(self, vm: VirtualMachine, clouds: Iterable[Cloud]) -> None:
        self._vm = vm
        token = secrets.token_urlsafe(16)
        self._start(_configuration(clouds, token), _environment(clouds))
        url = f"http://127.0.0.1:{vm.port_here(API_PORT)}"
        self._client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=90)
        self._wait_until_ready()

    def close(self) -> None:
        self._client.close()

    def export(self, disk: str, access: str = "read-only") -> Export:
        """Returns when it is ready."""
        request = {"disk": disk, "access": access, "holder": "tester"}
        answer = self._client.post("/v1/exports", json=request, headers={"Prefer": "wait=60"})
        assert answer.status_code == 201, answer.text
        export = answer.json()
        assert export["state"] == "ready", f"{export}\n{self.log()}"
        uri = urlsplit(export["uri"])
        here = f"nbd://127.0.0.1:{self._vm.port_here(uri.port or 0)}{uri.path}"
        return Export(export["id"], uri.path.removeprefix("/"), here)

    def release(self, export: Export) -> None:
        assert self._client.delete(f"/v1/exports/{export.id}").is_success

    def attachment(self, disk: str) -> dict[str, Any] | None:
        """As the service shows it."""
        found: list[dict[str, Any]] = self._client.get("/v1/attachments").raise_for_status().json()["items"]
        return next((attachment for attachment in found if attachment["disk"] == disk), None)

    def wait_for_attachment(self, disk: str, state: str | None) -> dict[str, Any]:
        """Returns it once it is in that state; an empty one for None: when there is none."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            attachment = self.attachment(disk)
            if (attachment and attachment["state"]) == state:
                return attachment or {}
            assert time.monotonic() < deadline, f"{attachment}\n{self.log()}"
            time.sleep(0.2)

    def log(self) -> str:
        return self._vm.agent.read(f"tail -n 40 {LOG}")

    def _start(self, configuration: str, environment: Mapping[str, str]) -> None:
        self._vm.agent.run(f"cat > {CONFIGURATION}", configuration)
        variables = " ".join(f"{name}='{value}'" for name, value in environment.items())
        command = f"{variables} setsid python3 -m cloudmanager serve --config {CONFIGURATION}"
        self._pid = int(self._vm.agent.read(f"{command} </dev/null >{LOG} 2>&1 & echo $!"))

    def _wait_until_ready(self) -> None:
        """Importing the SDKs takes a while in software emulation."""
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert time.monotonic() < deadline, self.log()
            assert self._vm.agent.run(f"kill -0 {self._pid}").status == 0, self.log()
            time.sleep(0.5)

    def _is_ready(self) -> bool:
        try:
            return self._client.get("/readyz").is_success
        except httpx.TransportError:  # QEMU's network accepts a connection before anybody listens in the machine
            return False


def _configuration(clouds: Iterable[Cloud], token: str) -> str:
    tables: dict[str, Mapping[str, object]] = {
        "server": {"listen": f"{ADDRESS}:{API_PORT}", "token_sha256": [sha256(token.encode()).hexdigest()]},
        # The machine's network is QEMU's own, and no wire.
        "nbd": {"listen": ADDRESS, "ports": f"{NBD_PORTS[0]}-{NBD_PORTS[-1]}", "insecure": True},
        "exports": {"drain_seconds": 0, "reconcile_seconds": 1},
    }
    tables |= {f"providers.{cloud.provider}": cloud.settings() for cloud in clouds}
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _environment(clouds: Iterable[Cloud]) -> dict[str, str]:
    variables = {"PYTHONPATH": "/opt/code:/opt/site"}
    for cloud in clouds:
        variables |= cloud.environment()
    return variables
