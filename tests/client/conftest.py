"""A service for the tests of one module, and both clients for each test."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloudmanager.client import AsyncCloudManager
from cloudmanager.client.service import HOLDER_VARIABLE, TOKEN_VARIABLE, URL_VARIABLE
from tests.client.async_adapter import AsyncAdapter
from tests.client.daemon import Daemon
from tests.client.proxy import Swallowing
from tests.waiting import BOUND

MakeClient = Callable[..., AsyncCloudManager]
MakeProxy = Callable[..., Swallowing]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
CLIENTS: dict[str, MakeClient] = {"threads": AsyncAdapter, "coroutines": AsyncCloudManager}  # type: ignore[dict-item] # it behaves as one


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=CLIENTS)
def make_client(request: pytest.FixtureRequest) -> MakeClient:
    """The class of the client: each test runs with both."""
    return CLIENTS[request.param]


@pytest.fixture
def client(make_client: MakeClient, daemon: Daemon) -> AsyncCloudManager:
    return make_client(daemon.url)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (URL_VARIABLE, TOKEN_VARIABLE, HOLDER_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """It is running when a test begins; a test that stops it starts it again."""
    daemon = Daemon(tmp_path_factory.mktemp("service"))
    daemon.image("a.img")
    try:
        daemon.started()
        yield daemon
    finally:
        daemon.end()


@pytest.fixture
def own_daemon(tmp_path: Path) -> Iterator[Daemon]:
    """For a test that has it configured in its own way, and starts it."""
    daemon = Daemon(tmp_path)
    daemon.image("a.img")
    yield daemon
    daemon.end()


@pytest.fixture
def soon() -> Eventually:
    """Waits for what nothing announces, and lets the event loop go on meanwhile."""

    async def wait(happened: Callable[[], object]) -> None:
        async with asyncio.timeout(BOUND):
            while not happened():
                await asyncio.sleep(0.02)

    return wait


@pytest.fixture
def swallowing(daemon: Daemon) -> Iterator[MakeProxy]:
    """Makes proxies to the service."""
    with ExitStack() as undo:

        def make(then: Callable[[], object] = lambda: None) -> Swallowing:
            proxy = Swallowing(daemon.url, then)
            undo.callback(proxy.close)
            return proxy

        yield make
