"""The export manager: one qemu-nbd per export."""

import logging
import select
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cloudmanager.confined import Ended, Launched, NoAnswer, Process, Spawner
from cloudmanager.core import openfiles
from cloudmanager.core.disklocks import DiskLocks, kernel_name
from cloudmanager.core.errors import DeviceMismatch, ResourcesExhausted, ServerFailed, TransferUnavailable, UnsafeImage
from cloudmanager.core.exhaustion import RETRY_SECONDS
from cloudmanager.core.model import Credentials, Tls
from cloudmanager.core.nbd import adoption, listener, tls
from cloudmanager.core.nbd.engine import ServerSpec
from cloudmanager.core.nbd.failure import limit_reached
from cloudmanager.core.nbd.handshake import WrongSize
from cloudmanager.core.nbd.images import chain
from cloudmanager.core.nbd.listener import ListenAddress, Ports
from cloudmanager.core.nbd.running import RunningServer
from cloudmanager.core.nbd.startup import ServerVerification, Startup, tls_directory
from cloudmanager.core.nbd.transfer import LocalAddress, Transfer
from cloudmanager.core.nbd.watcher import Watcher
from cloudmanager.core.openfiles import Capacity
from cloudmanager.core.records import ServerProcess
from cloudmanager.core.settings import NbdSettings, parse_ports
from cloudmanager.transfer.endpoint import written
from cloudmanager.transfer.negotiation import ProtocolError

log = logging.getLogger(__name__)

_STOP_SECONDS = 10.0
"""For qemu-nbd to finish its writes; then it is killed."""


@dataclass
class _Entry:
    """An export's listener and server."""

    port: int = 0
    listener: socket.socket | None = None
    running: RunningServer | None = None
    """Also a dead one, until it is replaced or stopped: it holds the claim on a device."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Held while a server is started, adopted or stopped."""

    @property
    def is_empty(self) -> bool:
        return self.listener is None and self.running is None

    def release(self) -> None:
        if self.running is not None:
            self.running.close()
        if self.listener is not None:
            self.listener.close()
        self.running = self.listener = None


class Servers:
    """Starts, adopts, watches and stops the qemu-nbd of each export. Thread-safe.

    The processes outlive it: `adopt` finds them again.
    """

    def __init__(
        self,
        settings: NbdSettings,
        directory: Path,
        scratch_limit_bytes: int,
        on_exit: Callable[[str], None],
        locks: DiskLocks | None = None,
    ) -> None:
        """`directory` gets a private directory for each export. Without `locks` there is no other service.

        `on_exit` is called with the id of an export whose qemu-nbd ended without being stopped, from the watcher's
        thread: it should return soon.
        """
        self._settings = settings
        self._directory = directory
        self._scratch_limit_bytes = scratch_limit_bytes
        self._on_exit = on_exit
        self._locks = locks
        self._ports = Ports(settings.ports)
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()
        self._admission = threading.Lock()
        self._watcher = Watcher()
        self._spawner = Spawner(is_sandboxed=settings.sandbox != "none", holds=True)

    @property
    def capacity(self) -> Capacity:
        return Capacity(len(parse_ports(self._settings.ports)), openfiles.limit())

    def reserve(self, export_id: str, port: int | None = None) -> int:
        """Listens for an export on this port, or on the next free one of the configured range.

        An export that has its listener keeps it. Clients queue from now on.
        Raises PortsExhausted, ResourcesExhausted, ServerFailed.
        """
        with self._entry(export_id) as entry:
            if entry.running is None or not entry.running.is_alive:
                self._listen(entry, port)
            return entry.port

    def start(self, spec: ServerSpec) -> ServerProcess:
        """Returns when an NBD handshake has succeeded and the open files are the right ones.

        A server that is alive and proven is left as it is; one that was found without a record proves itself now, or is
        replaced. May be called again after the server died: the port and the content of a scratch export stay the same.
        Raises ServerFailed, PortsExhausted, DeviceMismatch, DeviceError, DiskInUse, ImageError.
        """
        with self._entry(spec.export_id) as entry:
            if entry.running is not None and entry.running.is_alive:
                if entry.running.is_proven or self._proves(spec, entry, entry.running):
                    return entry.running.record
                self._end(spec.export_id, entry, entry.running)
                entry.running = None
            self._retire(entry)
            with self._locks.held(_locks(spec)) if self._locks else nullcontext(()) as locks:
                directory, listening = self._directory / spec.export_id, self._listen(entry, spec.port)
                startup = Startup(
                    spec, self._settings, directory, self._scratch_limit_bytes, listening, self._spawner, locks
                )
                running = startup.run()
            self._keep(spec.export_id, entry, running)
            return running.record

    def adopt(
        self,
        export_id: str,
        name: str,
        port: int | None,
        process: ServerProcess | None,
        claims: Mapping[str, bool] | None = None,
    ) -> ServerProcess | None:
        """Takes over the server of an earlier daemon. None: no server of this export is alive.

        `process` is what was stored; a server whose record was not stored, or not in time, is found by its name, and
        is verified at the next `start`.
        `claims` are as those of its specification: a server of an earlier version has no locks of its own.
        A listener that this user may not take back stays with the server: `refuse_clients` has no effect then.
        """
        if port is None:
            return None  # the port is stored before a server is started
        with self._entry(export_id) as entry:
            if entry.running is not None and entry.running.is_alive:
                return entry.running.record
            found = _find(name, port, process)
            if found is None:
                return None
            server, adopted = found
            self._retire(entry)
            entry.port = port
            entry.listener = entry.listener or listener.take_back(server, adopted.listener_inode)
            if entry.listener is not None:  # an earlier version, or other settings, may have made it
                listener.give_up_vanished(entry.listener, self._settings.client_timeout_seconds)
            launched = Launched(server, adoption.launcher_of(server))
            is_proven = adopted is process
            locks = self._locks.held_again(claims) if self._locks and claims else ()
            self._keep(
                export_id, entry, RunningServer(adopted, launched, stderr=None, claims=locks, is_proven=is_proven)
            )
            return adopted

    def is_alive(self, export_id: str) -> bool:
        running = self._running(export_id)
        return running is not None and running.is_alive

    def living(self) -> set[str]:
        """The exports whose servers live. One system call for all: there may be a thousand, which are looked at often.

        One that ends meanwhile, and whose descriptor is used again at once, may still be among them.
        """
        with self._lock:
            exports = {
                running.server.fd: export_id
                for export_id, entry in self._entries.items()
                if (running := entry.running) is not None
            }
        poll = select.poll()
        for descriptor in exports:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ended_or_closed in poll.poll(0):
            del exports[descriptor]
        return set(exports.values())

    def pid(self, export_id: str) -> int | None:
        """Of the living server."""
        running = self._running(export_id)
        return running.record.pid if running is not None and running.is_alive else None

    def refuse_clients(self, export_id: str) -> None:
        """New clients are refused from now on; the connected ones go on."""
        entry = self._entries.get(export_id)
        if entry is not None and entry.listener is not None:
            listener.refuse_clients(entry.listener)

    def client_count(self, export_id: str) -> int:
        """Connections that the server has accepted. One client may have several."""
        running = self._running(export_id)
        return 0 if running is None else running.client_count()

    def check_responsive(self, export_id: str, *, has_device: bool) -> str | None:
        """A message about a living server that answers no client; None when it does not hang.

        A stopped server is sent SIGCONT, which costs no client anything. One that hangs for
        `start_timeout_seconds` is killed, and so replaced, if it cannot be waiting for its disk: that is known of a
        block device (`has_device`), and not of a file, which may be on any file system.
        """
        entry = self._entries.get(export_id)
        running = entry and entry.running
        if not entry or not running:
            return None
        hang = running.detect_hang(entry.listener)
        if hang is None:
            return None
        who = f"The export's server (process {running.record.pid})"
        if hang.is_stopped:
            running.send(signal.SIGCONT)
            message = f"{who} was stopped by a signal. It was sent SIGCONT."
        elif not (has_device and hang.is_asleep):
            message = f"{who} answers no client: {hang.reason}. It is left alone; if it is killed it is replaced."
        else:
            message = f"{who} answers no client: {hang.reason}. It is replaced if that goes on."
            if hang.seconds >= self._settings.start_timeout_seconds:
                running.send(signal.SIGKILL)
        return message

    def halt(self, export_id: str) -> None:
        """Kills the server at once, even during writes. The export keeps its port and overlay, and can start again.

        Raises ServerFailed as `stop` does.
        """
        with self._entry(export_id) as entry:
            running, entry.running = entry.running, None
            if running is not None:
                self._end(export_id, entry, running, grace_seconds=0)

    def stop(self, export_id: str) -> None:
        """Ends the server and deletes what the export had: port, overlay, key. Idempotent.

        Raises ServerFailed (retriable) when the server cannot be killed, because it waits for a dead device, and when
        something cannot be deleted.
        """
        with self._entry(export_id) as entry:
            running, entry.running = entry.running, None
            if running is not None:
                self._end(export_id, entry, running)
            entry.release()
            _delete(self._directory / export_id)

    def sweep(self, export_id: str) -> None:
        """As `stop`, for an export that the store does not know: its server is found by the name in its directory."""
        if name := adoption.left_name(self._directory / export_id):
            adoption.end_by_name(name, _STOP_SECONDS)
        self.stop(export_id)

    def credentials(self, export_id: str) -> Credentials | None:
        """What a client is given besides the address; None without a key, and before the first start."""
        return tls.read_key(tls_directory(self._directory / export_id))

    def tls(self, export_id: str) -> Tls:
        """How the export's server was started, which may have been under other settings."""
        return tls.kind(tls_directory(self._directory / export_id))

    def uri(self, name: str, port: int, tls: Tls | None = None) -> str:
        """The address for a client, as the NBD project defines it (doc/uri.md). `tls`: as the settings say."""
        scheme = "nbd" if (tls or self._settings.tls) == "off" else "nbds"
        return f"{scheme}://{written(self._settings.advertised)}:{port}/{name}"

    def transfer(self, export_id: str, name: str, port: int) -> Transfer:
        """A connection to the export's server, for bytes that the service moves itself. Raises TransferUnavailable."""
        kind = self.tls(export_id)
        if kind is Tls.X509:
            raise TransferUnavailable("The export asks for a client's certificate, which the service has not. Use NBD.")
        host, port = listener.reachable(ListenAddress.resolve(self._settings.listen).host, port)
        scheme = "nbd" if kind is Tls.OFF else "nbds"
        uri = f"{scheme}://{written(host)}:{port}/{name}"
        return Transfer(LocalAddress(uri, self.credentials(export_id)))

    def close(self) -> None:
        """Stops watching the servers, which continue: the daemon ends."""
        self._watcher.close()
        self._spawner.close()
        with self._lock:
            entries = list(self._entries.values())
            self._entries.clear()
        for entry in entries:
            entry.release()

    @contextmanager
    def _entry(self, export_id: str) -> Iterator[_Entry]:
        """The export's entry, for this thread alone; one that is left empty is forgotten."""
        while True:
            with self._lock:
                entry = self._entries.setdefault(export_id, _Entry())
            with entry.turn:
                if self._entries.get(export_id) is not entry:
                    continue
                try:
                    yield entry
                finally:
                    with self._lock:
                        if entry.is_empty:
                            self._entries.pop(export_id, None)
                return

    def _running(self, export_id: str) -> RunningServer | None:
        entry = self._entries.get(export_id)
        return None if entry is None else entry.running

    def _listen(self, entry: _Entry, port: int | None) -> socket.socket:
        if entry.listener is not None:
            return entry.listener
        with self._admission:
            self._refuse_beyond_limit(entry)
            entry.listener = self._ports.listen(ListenAddress.resolve(self._settings.listen), port)
            listener.give_up_vanished(entry.listener, self._settings.client_timeout_seconds)
            entry.port = entry.listener.getsockname()[1]
        return entry.listener

    def _refuse_beyond_limit(self, wanting: _Entry) -> None:
        """Refuses a start before descriptors run out, which would stop all other work. Raises ResourcesExhausted."""
        capacity = self.capacity
        with self._lock:
            others = sum(not entry.is_empty for entry in self._entries.values() if entry is not wanting)
        if others >= capacity.within_files:
            raise ResourcesExhausted(
                f"The service has {others} exports, and {capacity}. Release exports, or make room for more. "
                f"{openfiles.how_to_serve(capacity.ports)}",
                retry_after=RETRY_SECONDS,
            )

    def _proves(self, spec: ServerSpec, entry: _Entry, running: RunningServer) -> bool:
        """Whether a server that was found serves what it should."""
        address = listener.reachable(ListenAddress.resolve(self._settings.listen).host, entry.port)
        directory = self._directory / spec.export_id
        proof = ServerVerification(spec, self._settings, directory, address, running.record.listener_inode)
        deadline = time.monotonic() + self._settings.start_timeout_seconds
        try:
            proof.await_answer(running.server, deadline)
            proof.check_files(running.server, locks=self._locks.files(_locks(spec)) if self._locks else ())
        except (NoAnswer, ProtocolError, Ended, WrongSize, DeviceMismatch, UnsafeImage, OSError) as error:
            log.warning("a server of export %s was found, but it is replaced: %r", spec.export_id, error)
            return False
        running.is_proven = True
        return True

    def _keep(self, export_id: str, entry: _Entry, running: RunningServer) -> None:
        entry.running = running
        self._watcher.watch(running.server.fd, partial(self._died, export_id, entry, running))

    def _retire(self, entry: _Entry) -> None:
        """Forgets a dead server."""
        if entry.running is not None:
            self._watcher.forget(entry.running.server.fd)
            entry.running.reap()
            entry.running.close()
            entry.running = None

    def _end(
        self, export_id: str, entry: _Entry, running: RunningServer, *, grace_seconds: float = _STOP_SECONDS
    ) -> None:
        self._watcher.forget(running.server.fd)
        if not running.end(grace_seconds):
            self._keep(export_id, entry, running)
            raise ServerFailed(
                "The export's server does not end, because its disk does not answer. This is retried.", retriable=True
            )
        running.reap()
        running.close()

    def _died(self, export_id: str, entry: _Entry, running: RunningServer) -> None:
        if entry.running is not running:
            return
        output = running.reap()
        if limit := limit_reached(output, self._settings.memory_limit_bytes):
            output = f"{output} {limit}"
        log.warning("the server of export %s ended%s", export_id, f": {output}" if output else "")
        self._on_exit(export_id)


def _delete(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ServerFailed(f"{directory} cannot be deleted: {error.strerror}.", retriable=True) from error


def _locks(spec: ServerSpec) -> dict[str, bool]:
    """What its server locks → whether exclusively: what it claims, and what it opens, by the kernel's names.

    Another service of this machine may have other canonical ids for what is no cloud's: a container that cannot read
    the machine's id, say.
    """
    opened = {kernel_name(image.identity): False for image in chain(spec.device)}
    return {**opened, kernel_name(spec.device.identity): spec.access.writes_disk, **spec.claims}


def _find(name: str, port: int, stored: ServerProcess | None) -> tuple[Process, ServerProcess] | None:
    if stored is not None:
        server = adoption.by_record(stored, name)
        if server is not None:
            return server, stored
    return adoption.by_name(name, port)
