"""The service as it runs: a socket, uvicorn, the manager, real qemu-nbd. In a thread: a test can look inside."""

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from cloudmanager.api.app import create_app
from cloudmanager.api.listener import address_of, listening
from cloudmanager.api.serving import ApiServer
from cloudmanager.core.manager import Manager
from cloudmanager.core.model import CLAIMING_STATES
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.records import ExportFilter
from cloudmanager.core.settings import Settings, from_tables
from cloudmanager.core.wiring import open_manager
from cloudmanager.providers import local
from tests.ports import free_ports
from tests.waiting import eventually

PORTS_EACH = 200
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""A default context reads all certificates of the machine, 20 ms for each client."""


@dataclass(frozen=True)
class Service:
    """A running service, and a client for it."""

    url: str
    client: httpx.Client
    manager: Manager
    server: ApiServer

    def export(
        self, disk: str, access: str = "read-only", wait: int | None = 20, **fields: object
    ) -> dict[str, object]:
        """The answer to a POST that is expected to succeed."""
        headers = {} if wait is None else {"Prefer": f"wait={wait}"}
        body = {"disk": disk, "access": access, "holder": "tester", **fields}
        answer = self.client.post("/v1/exports", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        exported: dict[str, object] = answer.json()
        return exported


def settings_for(directory: Path, **tables: Mapping[str, object]) -> Settings:
    """A configuration with the local provider on `directory/images`."""
    images = directory / "images"
    images.mkdir(exist_ok=True)
    ports = free_ports(PORTS_EACH)
    made: dict[str, dict[str, object]] = {
        "server": {"listen": "127.0.0.1:0", "state_dir": str(directory / "state"), "node": "here"},
        "nbd": {"ports": f"{ports.start}-{ports[-1]}"},
        "exports": {"drain_seconds": 0, "reconcile_seconds": 0.2},
        "providers": {"local": {"type": "local", "images": [str(images)]}},
    }
    for name, table in tables.items():
        made[name] = {**made.get(name, {}), **table}
    return from_tables(made)


@contextmanager
def running(settings: Settings, *others: tuple[str, object], token: str | None = None) -> Iterator[Service]:
    """Runs the service until the block ends, and ends its exports. `others` are further plugins, by name."""
    plugins = Plugins([("local", local), *others])
    plugins.configure(settings.providers)
    manager = open_manager(settings, plugins)
    try:
        manager.start()
        with listening(settings.server.listen) as listener:
            yield from _serving(manager, settings, listener, token)
            _end_exports(manager)
    finally:
        manager.close()


def _serving(manager: Manager, settings: Settings, listener: socket.socket, token: str | None) -> Iterator[Service]:
    url = address_of(listener)
    server = ApiServer(create_app(manager, settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="uvicorn")
    thread.start()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=30, verify=_NO_TLS) as client:
            yield Service(url, client, manager, server)
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def _end_exports(manager: Manager) -> None:
    """Closed, not only closing, so that no test leaves a qemu-nbd behind."""
    unfinished = ExportFilter(states=CLAIMING_STATES)
    for export in manager.list(unfinished, limit=1000).items:
        manager.release(export.id)
    eventually(lambda: not manager.list(unfinished).items, "exports did not end")
