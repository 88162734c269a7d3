"""The export manager: one qemu-nbd per export."""

import logging
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
from cloudmanager.core.nbd.listener import Endpoint, Ports
from cloudmanager.core.nbd.running import Running
from cloudmanager.core.nbd.startup import Proof, Startup, tls_directory
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
class _Place:
    """An export's listener and server."""

    port: int = 0
    listener: socket.socket | None = None
    running: Running | None = None
    """Also a dead one, until it is replaced or stopped: it holds the claim on a device."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever starts, adopts or stops."""

    @property
    def is_empty(self) -> bool:
        return self.listener is None and self.running is None

    def let_go(self) -> None:
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

        `on_exit` is called with the id of an export whose qemu-nbd ended though nobody stopped it, from the watcher's
        thread: it should return soon.
        """
        self._settings = settings
        self._directory = directory
        self._scratch_limit_bytes = scratch_limit_bytes
        self._on_exit = on_exit
        self._locks = locks
        self._ports = Ports(settings.ports)
        self._places: dict[str, _Place] = {}
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
        with self._place(export_id) as place:
            if place.running is None or not place.running.is_alive:
                self._listen(place, port)
            return place.port

    def start(self, spec: ServerSpec) -> ServerProcess:
        """Returns when an NBD handshake has succeeded and the open files are the right ones.

        A server that is alive and proven is left as it is; one that was found without a record proves itself now, or is
        replaced. May be called again after the server died: the port is the
        same, and so is the content of a scratch export.
        Raises ServerFailed, PortsExhausted, DeviceMismatch, DeviceError, DiskInUse, ImageError.
        """
        with self._place(spec.export_id) as place:
            if place.running is not None and place.running.is_alive:
                if place.running.is_proven or self._proves(spec, place, place.running):
                    return place.running.record
                self._end(spec.export_id, place, place.running)
                place.running = None
            self._retire(place)
            with self._locks.held(_locks(spec)) if self._locks else nullcontext(()) as locks:
                running = self._startup(spec, self._listen(place, spec.port), locks).run()
            self._keep(spec.export_id, place, running)
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
        has to prove itself when it is next asked for (`start`).
        `claims` are as those of its specification: a server of an earlier version has no locks of its own.
        A listener that this user may not take back stays with the server: `refuse_clients` has no effect then.
        """
        if port is None:
            return None  # the port is stored before a server is started
        with self._place(export_id) as place:
            if place.running is not None and place.running.is_alive:
                return place.running.record
            found = _find(name, port, process)
            if found is None:
                return None
            server, adopted = found
            self._retire(place)
            place.port = port
            place.listener = place.listener or listener.take_back(server, adopted.listener_inode)
            if place.listener is not None:  # an earlier version, or other settings, may have made it
                listener.give_up_vanished(place.listener, self._settings.client_timeout_seconds)
            launched = Launched(server, adoption.launcher_of(server))
            is_proven = adopted is process
            locks = self._locks.held_again(claims) if self._locks and claims else ()
            self._keep(export_id, place, Running(adopted, launched, stderr=None, claims=locks, is_proven=is_proven))
            return adopted

    def is_alive(self, export_id: str) -> bool:
        running = self._running(export_id)
        return running is not None and running.is_alive

    def pid(self, export_id: str) -> int | None:
        """Of the living server."""
        running = self._running(export_id)
        return running.record.pid if running is not None and running.is_alive else None

    def refuse_clients(self, export_id: str) -> None:
        """New clients are refused from now on; the connected ones go on."""
        place = self._places.get(export_id)
        if place is not None and place.listener is not None:
            listener.refuse_clients(place.listener)

    def client_count(self, export_id: str) -> int:
        """Connections that the server has accepted. One client may have several."""
        running = self._running(export_id)
        return 0 if running is None else running.client_count()

    def check_responsive(self, export_id: str, *, has_device: bool) -> str | None:
        """What is wrong with a living server that answers nobody, for a person; None when nothing is.

        One that was stopped is told to go on, which costs no client anything. One that hangs for
        `start_timeout_seconds` is killed, and so replaced, if it can be no disk that it waits for: that is known of a
        block device (`has_device`), and not of a file, which may be anywhere.
        """
        place = self._places.get(export_id)
        running = place and place.running
        if not place or not running:
            return None
        silence = running.silence(place.listener, running.places())
        if silence is None:
            return None
        who = f"The export's server (process {running.record.pid})"
        if silence.is_stopped:
            running.send(signal.SIGCONT)
            words = f"{who} was stopped by a signal, and is told to go on."
        elif not (has_device and silence.is_asleep):
            words = f"{who} answers nobody: {silence.reason}. It is left alone; if it is killed it is replaced."
        else:
            words = f"{who} answers nobody: {silence.reason}. It is replaced if that goes on."
            if silence.seconds >= self._settings.start_timeout_seconds:
                running.send(signal.SIGKILL)
        return words

    def halt(self, export_id: str) -> None:
        """Kills the server at once, whatever it is writing. The export keeps what it has, and can be started again.

        Raises ServerFailed as `stop` does.
        """
        with self._place(export_id) as place:
            running, place.running = place.running, None
            if running is not None:
                self._end(export_id, place, running, grace_seconds=0)

    def stop(self, export_id: str) -> None:
        """Ends the server and deletes what the export had: port, overlay, key. Idempotent.

        Raises ServerFailed (retriable) when the server cannot be killed, because it waits for a dead device, and when
        something cannot be deleted.
        """
        with self._place(export_id) as place:
            running, place.running = place.running, None
            if running is not None:
                self._end(export_id, place, running)
            place.let_go()
            _delete(self._directory / export_id)

    def sweep(self, export_id: str) -> None:
        """As `stop`, for an export that nobody knows any more: its server is found by what its directory tells."""
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
        host, port = listener.reachable(Endpoint.resolve(self._settings.listen).host, port)
        scheme = "nbd" if kind is Tls.OFF else "nbds"
        uri = f"{scheme}://{written(host)}:{port}/{name}"
        return Transfer(LocalAddress(uri, self.credentials(export_id)))

    def close(self) -> None:
        """The daemon ends: the servers go on, and nothing is watched any more."""
        self._watcher.close()
        self._spawner.close()
        with self._lock:
            places = list(self._places.values())
            self._places.clear()
        for place in places:
            place.let_go()

    @contextmanager
    def _place(self, export_id: str) -> Iterator[_Place]:
        """The export's place, for this thread alone; one that is left empty is forgotten."""
        while True:
            with self._lock:
                place = self._places.setdefault(export_id, _Place())
            with place.turn:
                if self._places.get(export_id) is not place:
                    continue
                try:
                    yield place
                finally:
                    with self._lock:
                        if place.is_empty:
                            self._places.pop(export_id, None)
                return

    def _running(self, export_id: str) -> Running | None:
        place = self._places.get(export_id)
        return None if place is None else place.running

    def _listen(self, place: _Place, port: int | None) -> socket.socket:
        if place.listener is not None:
            return place.listener
        with self._admission:
            self._refuse_beyond_limit(place)
            place.listener = self._ports.listen(Endpoint.resolve(self._settings.listen), port)
            listener.give_up_vanished(place.listener, self._settings.client_timeout_seconds)
            place.port = place.listener.getsockname()[1]
        return place.listener

    def _refuse_beyond_limit(self, wanting: _Place) -> None:
        """Before files run out: then nothing could be looked at, and nobody be answered. Raises ResourcesExhausted."""
        capacity = self.capacity
        with self._lock:
            others = sum(not place.is_empty for place in self._places.values() if place is not wanting)
        if others >= capacity.within_files:
            raise ResourcesExhausted(
                f"The service has {others} exports, and {capacity}. Release exports, or make room for more. "
                f"{openfiles.how_to_serve(capacity.ports)}",
                retry_after=RETRY_SECONDS,
            )

    def _startup(self, spec: ServerSpec, listening: socket.socket, locks: tuple[int, ...]) -> Startup:
        directory = self._directory / spec.export_id
        return Startup(spec, self._settings, directory, self._scratch_limit_bytes, listening, self._spawner, locks)

    def _proves(self, spec: ServerSpec, place: _Place, running: Running) -> bool:
        """Whether a server that was found serves what it should."""
        address = listener.reachable(Endpoint.resolve(self._settings.listen).host, place.port)
        directory = self._directory / spec.export_id
        proof = Proof(spec, self._settings, directory, address, running.record.listener_inode)
        deadline = time.monotonic() + self._settings.start_timeout_seconds
        try:
            proof.await_answer(running.server, deadline)
            proof.check_files(running.server, locks=self._locks.files(_locks(spec)) if self._locks else ())
        except (NoAnswer, ProtocolError, Ended, WrongSize, DeviceMismatch, UnsafeImage, OSError) as error:
            log.warning("a server of export %s was found, but it is replaced: %r", spec.export_id, error)
            return False
        running.is_proven = True
        return True

    def _keep(self, export_id: str, place: _Place, running: Running) -> None:
        place.running = running
        self._watcher.watch(running.server.fd, partial(self._died, export_id, place, running))

    def _retire(self, place: _Place) -> None:
        """Forgets a dead server."""
        if place.running is not None:
            self._watcher.forget(place.running.server.fd)
            place.running.reap()
            place.running.close()
            place.running = None

    def _end(self, export_id: str, place: _Place, running: Running, *, grace_seconds: float = _STOP_SECONDS) -> None:
        self._watcher.forget(running.server.fd)
        if not running.end(grace_seconds):
            self._keep(export_id, place, running)
            raise ServerFailed(
                "The export's server does not end: its disk does not answer. It is tried again.", retriable=True
            )
        running.reap()
        running.close()

    def _died(self, export_id: str, place: _Place, running: Running) -> None:
        if place.running is not running:
            return
        words = running.reap()
        if limit := limit_reached(words, self._settings.memory_limit_bytes):
            words = f"{words} {limit}"
        log.warning("the server of export %s ended%s", export_id, f": {words}" if words else "")
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
