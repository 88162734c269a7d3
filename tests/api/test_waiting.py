"""Waiting costs no thread, and ends with the service."""

import asyncio
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from pathlib import Path

import httpx
import pytest

from cloudmanager import hookimpl
from cloudmanager.api.serving import GRACE_SECONDS
from cloudmanager.core.claiming import ClaimRequest
from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Device, Export
from tests.api.service import Service, running, settings_for
from tests.waiting import eventually

CLIENTS = 100


class Gate:
    """A plugin under which no device is found before the gate opens: a slow cloud."""

    def __init__(self) -> None:
        self.open = threading.Event()

    @hookimpl(wrapper=True)
    def locate(self) -> Generator[None, Device, Device]:
        self.open.wait(60)
        return (yield)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def slow_service(directory: Path, tmp_path: Path, gate: Gate) -> Iterator[Service]:
    settings = settings_for(directory, server={"state_dir": str(tmp_path)})
    with running(settings, ("gate", gate)) as service:
        yield service
        gate.open.set()


async def ask_and_wait(client: httpx.AsyncClient, number: int) -> dict[str, object]:
    body = {"disk": "local:a.img", "holder": f"worker-{number}"}
    answer = await client.post("/v1/exports", json=body, headers={"Prefer": "wait=30"})
    exported: dict[str, object] = answer.json()
    return exported


async def slowest_answer(client: httpx.AsyncClient) -> float:
    """Seconds, of a few answers that need the store."""
    slowest = 0.0
    for _ in range(10):
        started = time.monotonic()
        (await client.get("/v1/exports", params={"limit": "5"})).raise_for_status()
        slowest = max(slowest, time.monotonic() - started)
    return slowest


def waiters(service: Service) -> int:
    return len(service.server.async_manager.waiters)


def test_many_who_wait_leave_the_service_responsive(slow_service: Service, gate: Gate) -> None:
    async def scene() -> tuple[int, float, list[dict[str, object]]]:
        limits = httpx.Limits(max_connections=CLIENTS + 10)
        async with httpx.AsyncClient(base_url=slow_service.url, limits=limits, timeout=60) as client:
            asked = [asyncio.create_task(ask_and_wait(client, number)) for number in range(CLIENTS)]
            await asyncio.to_thread(eventually, lambda: waiters(slow_service) == CLIENTS, "not everybody waits")
            threads = sum(thread.name.startswith("http") for thread in threading.enumerate())
            slowest = await slowest_answer(client)
            gate.open.set()
            return threads, slowest, list(await asyncio.gather(*asked))

    threads, slowest, exports = asyncio.run(scene())
    assert threads < CLIENTS
    assert slowest < 5  # were waiting to hold threads, it would be most of half a minute
    assert [export["state"] for export in exports] == ["ready"] * CLIENTS


def test_a_wait_that_ends_too_early_shows_the_export_as_it_is(slow_service: Service) -> None:
    started = time.monotonic()
    export = slow_service.export("local:a.img", wait=1)
    assert export["state"] in ("pending", "attaching")
    assert 1 <= time.monotonic() - started < 10


def test_a_wait_that_is_over_leaves_nothing_behind(slow_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    futures: list[Future[Export]] = []

    def claim(request: ClaimRequest) -> tuple[Export, Future[Export]]:
        export, future = Manager.claim(slow_service.manager, request)
        futures.append(future)
        return export, future

    monkeypatch.setattr(slow_service.manager, "claim", claim)
    slow_service.export("local:a.img", wait=1)
    assert [future.cancelled() for future in futures] == [True]
    assert waiters(slow_service) == 0


def test_releasing_ends_the_wait(slow_service: Service) -> None:
    export = slow_service.export("local:a.img", wait=None)
    path = f"/v1/exports/{export['id']}"
    answers: list[str] = []

    def wait() -> None:
        answer = slow_service.client.get(path, headers={"Prefer": "wait=30"})
        answers.append(answer.json()["state"])

    waiting = threading.Thread(target=wait)
    waiting.start()
    eventually(lambda: waiters(slow_service) == 1, "nobody waits")
    slow_service.client.delete(path)
    waiting.join(10)
    assert answers in (["closing"], ["closed"])


def test_a_service_that_stops_answers_those_who_wait(directory: Path, tmp_path: Path, gate: Gate) -> None:
    settings = settings_for(directory, server={"state_dir": str(tmp_path)})
    states: list[object] = []
    with running(settings, ("gate", gate)) as service:
        waiting = threading.Thread(target=lambda: states.append(service.export("local:a.img", wait=60)["state"]))
        waiting.start()
        eventually(lambda: waiters(service) == 1, "nobody waits")
        started = time.monotonic()
        service.server.should_exit = True
        waiting.join(20)
        assert time.monotonic() - started < GRACE_SECONDS
        gate.open.set()
    assert states in (["pending"], ["attaching"])
