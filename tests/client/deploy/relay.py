"""Stands between a client and a Unix socket: counts, holds and cuts."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cloudmanager.client.address import NbdAddress

_CHUNK = 65536


@dataclass
class Relay:
    """Everything that a client sends passes here."""

    path: Path
    behind: Path
    sent_bytes: int = 0
    """By clients, over all connections."""
    opened: int = 0
    """Connections, in all."""
    _limit: int | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _connections: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def address(self) -> NbdAddress:
        return NbdAddress(f"nbd+unix:///disk?socket={self.path}", is_writable=True)

    def hold_after(self, count: int | None) -> None:
        """Passes so many bytes of clients in all, and no more until told otherwise."""
        with self._changed:
            self._limit = count
            self._changed.notify_all()

    def await_hold(self, seconds: float = 60) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._limit is None or self.sent_bytes >= self._limit, seconds)

    def cut(self) -> None:
        """Every connection that there is."""
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._connections.clear()

    def end(self) -> None:
        self.cut()
        for thread in self._threads:
            thread.join()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self.behind))
            except OSError:
                client.close()
                server.close()
                continue
            with self._changed:
                self._connections += [client, server]
                self.opened += 1
            thread = threading.Thread(target=self._serve, args=(client, server))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            back = threading.Thread(target=self._pass_on, args=(server, client, False))
            back.start()
            self._pass_on(client, server, True)
            back.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                if counts:
                    with self._changed:
                        self._changed.wait_for(lambda: self._limit is None or self.sent_bytes < self._limit)
                        self.sent_bytes += len(data)
                        self._changed.notify_all()
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def relayed(behind: Path) -> Iterator[Relay]:
    relay = Relay(behind.with_suffix(".relay"), behind)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(relay.path))
        listener.listen(64)
        thread = threading.Thread(target=relay.accept, args=(listener,), daemon=True)
        thread.start()
        try:
            yield relay
        finally:
            relay.hold_after(None)
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            relay.end()
