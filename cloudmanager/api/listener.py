"""The socket that the HTTP interface listens on."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloudmanager.core.errors import SetupError
from cloudmanager.core.settings import parse_listen

BACKLOG = 1024


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
        os.fchmod(listener.fileno(), 0o600)  # before bind: Linux makes the file with this mode, so nobody slips in
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
