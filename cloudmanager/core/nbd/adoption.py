"""How a qemu-nbd is recognised, also by a daemon that did not start it."""

import os
import time
from contextlib import suppress
from pathlib import Path

from cloudmanager.confined import Process
from cloudmanager.core.exhaustion import exhausted, raise_exhausted
from cloudmanager.core.nbd import listener, process
from cloudmanager.core.nbd.engine import program_of
from cloudmanager.core.nbd.engines import ENGINES
from cloudmanager.core.records import ServerProcess

_PROGRAMS = tuple(engine.program for engine in ENGINES)
_BEGINNINGS = ("bwrap", "sh", *_PROGRAMS)
"""What a server is in turn: the sandbox, the shell that hands it the listener, itself."""
_SETTLE_SECONDS = 2.0
"""How long a start that another daemon began may take to become a server, or nothing."""
_LOOK_SECONDS = 0.02
_NAME = "name"


def server_process(server: Process, listener_inode: int) -> ServerProcess:
    """What the store keeps of it. Raises OSError when it has ended."""
    return ServerProcess(process.boot_id(), server.pid, process.start_time(server.pid), listener_inode)


def by_record(record: ServerProcess, name: str) -> Process | None:
    """The process of the record, if it is still the same one."""
    if record.boot_id != process.boot_id():
        return None
    server = Process.find(record.pid)
    if server is None:
        return None
    try:
        if (
            process.start_time(server.pid) == record.start_time
            and _is_server(server.pid, name)
            and record.listener_inode in process.sockets(server.pid).values()
        ):
            return server
    except OSError as error:
        _give_up(server, error)
    server.close()
    return None


def by_name(name: str, port: int) -> tuple[Process, ServerProcess] | None:
    """Finds the server that has the name on its command line and listens on the port.

    Other processes with the name are ended: an incomplete start, or a server that lost its port.
    """
    settled = time.monotonic() + _SETTLE_SECONDS
    while True:
        carriers = _carriers(name)
        for pid in carriers:
            found = _listening(pid, name, port)
            if found is not None:
                return found
        # A child that has not executed its program yet carries no name, but it holds the listener.
        if not carriers and not listener.listening_inodes(port):
            return None
        if time.monotonic() > settled:
            end_by_name(name)
            return None
        time.sleep(_LOOK_SECONDS)  # there is no event for when another process executes a program


def end_by_name(name: str, grace_seconds: float = 0) -> None:
    """Ends every process with the name, also one that is still starting; kills it after the grace period."""
    for carrier in filter(None, map(Process.find, _carriers(name))):
        if _is_ours(carrier.pid, name):  # now that the number cannot come to mean another process
            carrier.end(grace_seconds, _SETTLE_SECONDS)
        carrier.close()


def leave_name(directory: Path, name: str) -> None:
    """In the export's own directory, for a daemon whose store does not know the export. A link is made whole or not."""
    with suppress(FileExistsError):
        (directory / _NAME).symlink_to(name)


def left_name(directory: Path) -> str | None:
    """What `leave_name` has left there."""
    try:
        return str((directory / _NAME).readlink())
    except OSError:
        return None


def launcher_of(server: Process) -> int | None:
    """The sandbox's process above a server, where it is a child of ours: the daemon may have replaced itself."""
    with suppress(OSError):
        above = process.parent(server.pid)
        if above != os.getpid() and process.parent(above) == os.getpid():
            return above
    return None


def _listening(pid: int, name: str, port: int) -> tuple[Process, ServerProcess] | None:
    server = Process.find(pid)
    if server is None:
        return None
    try:
        inode = listener.listening_on(server, port) if _is_server(pid, name) else None
        if inode is not None:
            return server, server_process(server, inode)
    except OSError as error:
        _give_up(server, error)
    server.close()
    return None


def _give_up(server: Process, error: OSError) -> None:
    """It has ended, or is another user's. Raises ResourcesExhausted: what cannot be looked at may be a server."""
    if lacking := exhausted(error):
        server.close()
        raise lacking from error


def _is_ours(pid: int, name: str) -> bool:
    """Anybody can read a name in /proc and use it, so the user and the program are compared too."""
    try:
        command_line = process.command_line(pid)
        has_name = any(engine.name_option(name) in command_line for engine in ENGINES)
        return has_name and program_of(command_line) in _BEGINNINGS and process.owner(pid) == os.geteuid()
    except OSError as error:
        raise_exhausted(error)
        return False


def _is_server(pid: int, name: str) -> bool:
    return _is_ours(pid, name) and program_of(process.command_line(pid)) in _PROGRAMS


def _carriers(name: str) -> list[int]:
    return [pid for pid in process.all_pids() if _is_ours(pid, name)]
