"""Runs the service: the listening socket, the core, the HTTP server, and their orderly end."""

import asyncio
import ctypes
import gc
import logging
import math
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn
from fastapi import FastAPI

from cloudmanager.api.app import create_app
from cloudmanager.api.async_manager import AsyncManager
from cloudmanager.api.connections import HttpConnections, most_connections, protocol
from cloudmanager.api.listener import Acceptor, address_of, listening
from cloudmanager.api.stopping import Stop
from cloudmanager.core import openfiles
from cloudmanager.core.manager import Manager
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.settings import Settings
from cloudmanager.core.wiring import open_manager

GRACE_SECONDS = 10
"""How long requests in progress may take to finish once the service is asked to stop, if there is that much time."""
CLOSING_SHARE = 0.8
"""The part of the shutdown time that closing the exports may take, if they are to be closed."""
IDLE_SECONDS = 60
"""A connection without requests is closed after this. Clients give theirs up sooner (httpx after 5 s), and so none is
closed just when its client sends a request."""
_M_ARENA_MAX = -8
"""Of mallopt(3)."""
_ARENAS = 2
log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT. Call it from the main thread. Raises SetupError, StoreUnavailable."""
    _log_to_stderr(settings.server.log_level)
    os.umask(0o077)  # what the service keeps is nobody else's
    openfiles.raise_limit()
    _share_memory()
    stop = Stop(settings.server.shutdown_seconds)
    with stop.on_signals():
        try:
            with listening(settings.server.listen) as listener:
                _serve(settings, listener, stop)
        except KeyboardInterrupt:  # it came before anything was served
            log.info("stopped")


def _serve(settings: Settings, listener: socket.socket, stop: Stop) -> None:
    plugins = Plugins()
    plugins.configure(settings.providers)
    manager = open_manager(settings, plugins)
    try:
        manager.start()
        server = ApiServer(create_app(manager, settings))
        _leave_what_stays_to_itself()
        stop.begin_with(partial(_shut_down, manager, server, stop))
        server.run(sockets=[listener])
    finally:
        manager.close(stop.remaining())
    is_kept = settings.exports.on_shutdown == "keep"
    log.info("stopped; exports go on being served" if is_kept else "stopped")


def _share_memory() -> None:
    """glibc would give a hundred threads sixteen pools of memory, each of which stays as large as it ever was."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none, and no such pools
    if mallopt:
        mallopt(_M_ARENA_MAX, _ARENAS)


def _leave_what_stays_to_itself() -> None:
    """The modules and all that they made are not searched for garbage again: each time, every request would wait."""
    gc.collect()
    gc.freeze()


def _shut_down(manager: Manager, server: "ApiServer", stop: Stop) -> None:
    """Requests are answered until the exports are closed, where they are to be."""
    try:
        manager.shut_down(stop.remaining() * CLOSING_SHARE)
    finally:
        server.grace_seconds = min(GRACE_SECONDS, stop.remaining() / 2)
        server.should_exit = True


def _log_to_stderr(level: str) -> None:
    """Logs our own messages as configured, and warnings of other packages.

    `debug` shows their informational ones too, never their debugging: cloud SDKs show keys there.
    """
    others = logging.INFO if level == "debug" else logging.WARNING
    logging.basicConfig(level=others, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("cloudmanager").setLevel(level.upper())


class ApiServer(uvicorn.Server):
    """uvicorn for our app. It answers on the sockets given to `run`, until `should_exit`."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                # httptools takes 0.15 ms less per request than h11, and any amount of headers from anybody
                http=protocol(HttpConnections(most_connections())),
                headers=[("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")],
                log_config=None,
                access_log=log.isEnabledFor(logging.DEBUG),
                ws="none",
                timeout_keep_alive=IDLE_SECONDS,
                lifespan="off",
                proxy_headers=False,
                server_header=False,
            )
        )
        self.grace_seconds: float = GRACE_SECONDS
        self.async_manager: AsyncManager = app.state.async_manager
        self.acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])  # it listens on nothing itself: see Acceptor
        self.acceptors = [Acceptor(listener, self._protocol) for listener in sockets or []]
        for listener in sockets or []:
            log.info("listening on %s", address_of(listener))

    def _protocol(self) -> asyncio.Protocol:
        """As uvicorn makes one."""
        made: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return made(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for acceptor in self.acceptors:
            acceptor.close()
        self.async_manager.stop_waiting()
        asyncio.get_running_loop().call_later(self.grace_seconds, self.async_manager.give_up)
        self.config.timeout_graceful_shutdown = math.ceil(self.grace_seconds) + 1  # for their answers to go out
        await super().shutdown(sockets)
        self.async_manager.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are `Stop`'s: uvicorn would raise them again in the end, and knows no bound."""
        yield
