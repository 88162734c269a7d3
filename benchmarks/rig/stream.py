"""A plain TCP stream: what a network can do without NBD."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_CHUNK = bytes(2**20)


@contextmanager
def stream(address: str, size_bytes: int) -> Iterator[int]:
    """The port where whoever connects is sent so many bytes."""

    class Sender(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            for _ in range(size_bytes // len(_CHUNK)):
                self.request.sendall(_CHUNK)

    with socketserver.ThreadingTCPServer((address, 0), Sender) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
