"""A service that may have few files open: it says so, keeps within them, and goes on when there are some again."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from cloudmanager.api.listener import PAUSE_SECONDS
from cloudmanager.core.openfiles import Capacity, files_for
from tests.api.process import Process, process
from tests.core.nbd.client import Client
from tests.waiting import eventually

FILES = 256
MOST = Capacity(ports=200, files=FILES).exports


@contextmanager
def limited(tmp_path: Path, files: int = FILES) -> Iterator[tuple[Process, httpx.Client]]:
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "a.img").write_bytes(os.urandom(1 << 20))
    with process(tmp_path, files=files, exports={"drain_seconds": 0, "on_shutdown": "close"}) as started:
        with httpx.Client(base_url=started.address(), timeout=30) as client:
            yield started, client


def export(client: httpx.Client, wait: int = 20) -> dict[str, object]:
    body = {"disk": "local:a.img", "access": "read-only", "holder": "tester"}
    answer = client.post("/v1/exports", json=body, headers={"Prefer": f"wait={wait}"}).raise_for_status()
    made: dict[str, object] = answer.json()
    return made


def ready(client: httpx.Client) -> dict[str, object]:
    made = export(client)
    while made["state"] in ("pending", "attaching"):  # a busy machine
        made = client.get(f"/v1/exports/{made['id']}", headers={"Prefer": "wait=20"}).json()
    assert made["state"] == "ready", made
    return made


def state(client: httpx.Client, made: dict[str, object]) -> object:
    return client.get(f"/v1/exports/{made['id']}").json()["state"]


def is_served(made: dict[str, object]) -> bool:
    address = urlsplit(str(made["uri"]))
    with Client.greeted(address.port or 0, address.path[1:]) as reader:
        return len(reader.read(0, 512)) == 512


def test_what_files_are_not_enough_for_waits_and_is_told_so(tmp_path: Path) -> None:
    with limited(tmp_path) as (service, client):
        assert any(f"{FILES} open files are enough for {MOST}" in line for line in service.lines)
        made = [ready(client) for _ in range(MOST)]
        waiting = export(client, wait=0)
        eventually(lambda: bool(client.get(f"/v1/exports/{waiting['id']}").json()["error"]), "nothing is said")
        error = client.get(f"/v1/exports/{waiting['id']}").json()["error"]
        assert (error["code"], error["retriable"]) == ("resources_exhausted", True)
        assert "LimitNOFILE" in error["detail"]
        client.delete(f"/v1/exports/{made[0]['id']}")
        eventually(lambda: state(client, waiting) == "ready", "the place that is free was not given to it")
        assert is_served(made[1])


def test_connections_for_which_there_is_no_file_wait_quietly_and_are_served_afterwards(tmp_path: Path) -> None:
    """Connections alone cannot take all files, for their number is bounded: so the service's limit is lowered."""
    with limited(tmp_path) as (service, client):
        made = ready(client)
        where = urlsplit(service.address())
        used = len(list(Path(f"/proc/{service.popen.pid}/fd").iterdir()))
        before_that = resource.prlimit(service.popen.pid, resource.RLIMIT_NOFILE, (used, FILES))
        with ExitStack() as stack:
            for _ in range(8):  # whatever it closes meanwhile
                late = stack.enter_context(socket.create_connection((where.hostname or "", where.port or 0)))
                late.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            eventually(lambda: _says(service, "no connection can be accepted"), "it does not say so")
            before, began = _cpu_seconds(service), time.monotonic()
            eventually(lambda: time.monotonic() > began + 4 * PAUSE_SECONDS, "time passes")
            assert _cpu_seconds(service) - before < 2 * PAUSE_SECONDS
            assert is_served(made)
            resource.prlimit(service.popen.pid, resource.RLIMIT_NOFILE, before_that)
            assert late.recv(12) == b"HTTP/1.1 200"
        assert client.get("/healthz").status_code == 200
        assert state(client, made) == "ready"
    assert len([line for line in service.lines if "no connection can be accepted" in line]) < 4
    assert not any("Traceback" in line for line in service.lines)


def test_a_service_with_too_few_files_for_its_exports_does_not_start_and_they_go_on(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.img").write_bytes(os.urandom(1 << 20))
    kept = {"drain_seconds": 0, "on_shutdown": "keep"}
    with process(tmp_path, exports=kept) as started, httpx.Client(base_url=started.address(), timeout=30) as client:
        made = [ready(client) for _ in range(3)]
    try:
        with process(tmp_path, files=files_for(2), exports=kept) as started:
            assert started.popen.wait(60) == 1
            assert "3 exports" in "".join(started.lines)
            assert "LimitNOFILE" in "".join(started.lines)
        for each in made:
            assert is_served(each)
    finally:
        with process(tmp_path, exports={**kept, "on_shutdown": "close"}) as started:
            started.address()


def _says(service: Process, arguments: str) -> bool:
    return any(arguments in line for line in service.lines)


def _cpu_seconds(service: Process) -> float:
    fields = Path(f"/proc/{service.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
