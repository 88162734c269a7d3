"""The socket that the HTTP interface listens on, and the connections that it accepts there."""

import asyncio
import errno
import fcntl
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloudmanager.core.errors import SetupError
from cloudmanager.core.exhaustion import exhausted
from cloudmanager.core.settings import parse_listen

BACKLOG = 1024
PAUSE_SECONDS = 0.25
"""Until the next attempt, when no more file can be opened."""
AT_ONCE = 64
"""Connections in one turn of the event loop."""
log = logging.getLogger(__name__)


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """A socket that listens on `"host:port"` or `"unix:/path"`; a unix socket's file is removed at the end.

    Raises SetupError if the address is in use or cannot be had.
    """
    where = parse_listen(address)
    if isinstance(where, tuple):
        with _tcp(address, *where) as listener:
            yield listener
    else:
        with _unix(where) as listener:
            yield listener


def address_of(listener: socket.socket) -> str:
    """`"http://127.0.0.1:8600"` or `"unix:/run/cloudmanager.sock"`, with the port that was given for port 0."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _tcp(address: str, host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except socket.gaierror as error:
        raise SetupError(f'server.listen = "{address}": {host} is not known ({error.strerror}).') from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(address, error) from error
    return listener


def _cannot_listen(address: str, error: OSError) -> SetupError:
    match error.errno:
        case errno.EADDRINUSE:
            return SetupError(
                f"{address} is in use, perhaps by another cloudmanager. Stop what uses it "
                "(`ss -lntxp` shows it), or set server.listen to another address."
            )
        case errno.EACCES:
            return SetupError(
                f"No permission to listen on {address}. Set server.listen to an address that you may use."
            )
        case errno.EADDRNOTAVAIL:
            return SetupError(f"{address} is not an address of this machine. Set server.listen to one that is.")
        case _:
            return SetupError(f"Cannot listen on {address}: {error.strerror or error}.")


@contextmanager
def _unix(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        os.fchmod(listener.fileno(), 0o600)  # before bind: Linux creates the file with this mode
        _bind(listener, path)
        made = path.stat()
        try:
            yield listener
        finally:
            with suppress(OSError):
                if os.path.samestat(path.stat(), made):
                    path.unlink()


def _bind(listener: socket.socket, path: Path) -> None:
    """Takes the place of a socket that nobody listens on. The lock makes that safe when two services start at once."""
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SetupError(f"{path.parent}, the directory of the socket, cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if _is_stale(path):
            path.unlink()
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        raise _cannot_listen(f"unix:{path}", error) from error
    finally:
        os.close(directory)


def _is_stale(path: Path) -> bool:
    """A socket that refuses connections. Anything else is left alone, and `bind` says that it is in the way."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full queue of a live service answers at once, with EAGAIN
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED


class Acceptor:
    """Makes a protocol for each connection of a listening socket. Like asyncio.Server, as far as uvicorn needs one.

    When no more file can be opened, asyncio's own server tries again for each client that may be waiting, and logs a
    traceback each time: hundreds a second, for as long as it lasts.
    """

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
        """Stops accepting. Existing connections continue."""
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
        """Clients wait in the queue. Logged once, however long it lasts."""
        if not self._is_short:
            self._is_short = True
            log.warning("no connection can be accepted for now: %s", why)
        self._loop.remove_reader(self._listener)
        self._resumption = self._loop.call_later(PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._accept)
