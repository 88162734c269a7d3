"""Accepts the connections of the HTTP interface.

When no file can be opened any more, asyncio's own server tries again for every client that may wait, and writes a
traceback each time: hundreds a second, for as long as it lasts.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

from cloudmanager.core.exhaustion import exhausted

PAUSE_SECONDS = 0.25
"""Until the next attempt, when there is nothing to accept a connection with."""
AT_ONCE = 64
"""Connections in one turn of the event loop."""
log = logging.getLogger(__name__)


class Acceptor:
    """Makes a protocol for each connection of a listening socket. Like asyncio.Server, as far as uvicorn needs one."""

    def __init__(self, listener: socket.socket, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        """Call it where an event loop runs."""
        self._listener = listener
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._resumption: asyncio.TimerHandle | None = None
        self._is_short = False
        """The last attempt failed for want of something."""
        self._connecting: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accepts nothing more. Connections go on."""
        if self._resumption:
            self._resumption.cancel()
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Those that were being made are made."""
        await asyncio.gather(*self._connecting, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _peer = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if lacking := exhausted(error):
                    self._pause(lacking.detail)
                    return
                continue  # of this connection, which is gone: accept(2) hands its network errors on
            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        if self._is_short:
            self._is_short = False
            log.warning("connections are accepted again")
        connection.setblocking(False)
        task = self._loop.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:  # it has gone already
            connection.close()

    def _pause(self, why: str) -> None:
        """Clients wait in the queue. It is said once, however long it lasts."""
        if not self._is_short:
            self._is_short = True
            log.warning("no connection can be accepted for now: %s", why)
        self._loop.remove_reader(self._listener)
        self._resumption = self._loop.call_later(PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._accept)
