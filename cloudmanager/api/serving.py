"""Runs the service: the listening socket, the core, the HTTP server, and their orderly end."""

import logging
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from cloudmanager.api.app import create_app
from cloudmanager.api.async_manager import AsyncManager
from cloudmanager.api.listener import address_of, listening
from cloudmanager.core.manager import Manager
from cloudmanager.core.plugins import Plugins
from cloudmanager.core.settings import Settings

GRACE_SECONDS = 10
"""What requests in progress have to finish once the service is asked to stop."""
SWITCH_SECONDS = 0.0005
"""A thread that has waited for a process to be ready runs this soon: Python's own 5 ms is most of such a wait."""
log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT. Call it from the main thread. Raises SetupError, StoreUnavailable."""
    _log_to_stderr(settings.server.log_level)
    _allow_open_files()
    sys.setswitchinterval(SWITCH_SECONDS)
    with listening(settings.server.listen) as listener, _stopped_by_sigterm():
        plugins = Plugins()
        plugins.configure(settings.providers)
        manager = Manager.open(settings, plugins)
        try:
            manager.start()
            Server(create_app(manager, settings)).run(sockets=[listener])
        except KeyboardInterrupt:
            log.info("stopped; exports go on being served")
        finally:
            manager.close()


def _log_to_stderr(level: str) -> None:
    """Our own messages as configured, and of other packages what is worth a warning.

    `debug` shows their informational ones too, never their debugging: cloud SDKs show keys there.
    """
    others = logging.INFO if level == "debug" else logging.WARNING
    logging.basicConfig(level=others, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("cloudmanager").setLevel(level.upper())


class Server(uvicorn.Server):
    """uvicorn for our app. It answers on the sockets given to `run`, until SIGTERM, SIGINT or `should_exit`."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http="h11",  # httptools takes 0.15 ms less per request, and any amount of headers from anybody
                headers=[("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")],
                log_config=None,
                access_log=log.isEnabledFor(logging.DEBUG),
                ws="none",
                lifespan="off",
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self.async_manager: AsyncManager = app.state.async_manager

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            log.info("listening on %s", address_of(listener))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.async_manager.stop_waiting()
        await super().shutdown(sockets)
        self.async_manager.close()


def _allow_open_files() -> None:
    """As many as the administrator permits: an export takes three descriptors, and the soft limit is often 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt as SIGINT does.

    uvicorn stops in good order on both and then raises the signal again; without this the process would end there and
    leave its socket and its lock behind.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
