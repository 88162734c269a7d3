"""A proxy that keeps the first answer to itself."""

import socket
import threading
from collections.abc import Callable


class Swallowing:
    """Forwards the first request, waits for the answer, and does not give it: `then` is called, the connection is cut.

    Everything after that passes.
    """

    def __init__(self, url: str, then: Callable[[], object] = lambda: None) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._then = then
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.swallowed = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        pumps: list[threading.Thread] = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            server = socket.create_connection(self._target)
            if not self.swallowed:
                self._swallow(client, server)
                continue
            for pair in ((client, server), (server, client)):
                pumps.append(threading.Thread(target=_pump, args=pair))
                pumps[-1].start()
        for pump in pumps:
            pump.join()

    def _swallow(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            received = b""
            while not received.endswith(b"}"):
                received += client.recv(65536)
            server.sendall(received)
            self.swallowed = server.recv(65536)
            self._then()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with source:
        while data := source.recv(65536):
            target.sendall(data)
        try:
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return
