"""A threaded HTTP server whose whole behaviour is one function from request to response."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """`path` is decoded; `query` keeps the last value of a repeated name, `query_items` all of them in order."""

    method: str
    path: str
    query_items: tuple[tuple[str, str], ...]
    headers: Message
    body: bytes
    raw_path: str = ""
    """As sent, with the query."""

    @property
    def query(self) -> dict[str, str]:
        return dict(self.query_items)

    def json(self) -> Any:
        """Raises ValueError."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_cut: bool = False
    """Break the connection instead of answering."""

    @classmethod
    def of_json(cls, status: int, document: object, headers: Mapping[str, str] | None = None) -> Self:
        content = {"Content-Type": "application/json; charset=UTF-8", **(headers or {})}
        return cls(status, json.dumps(document).encode(), content)

    @classmethod
    def of_text(cls, status: int, text: str, content_type: str = "text/plain") -> Self:
        return cls(status, text.encode(), {"Content-Type": content_type})


CUT = Response(0, is_cut=True)
Answer = Callable[[Request], Response]


class HttpServer:
    """Listens from construction on, answers from `start` on, one thread per connection."""

    def __init__(
        self, answer: Answer, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._server = _Server((host, port), answer, tls)
        self._thread = threading.Thread(target=self._server.accept_all, daemon=True)
        self.host = host
        self.port: int = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}"

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.stop_accepting()
            self._thread.join()
        self._server.cut_connections()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # an idle keep-alive connection would keep the server open
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], answer: Answer, tls: ssl.SSLContext | None) -> None:
        self.answer = answer
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._is_stopping = False
        super().__init__(address, _Handler)

    def accept_all(self) -> None:
        """Returns after `stop_accepting`. The base class polls for that, and each stop would take as long."""
        while not self._is_stopping:
            try:
                connection, address = self.get_request()
            except OSError:
                continue  # a client that left before it was accepted, or the end
            self.process_request(connection, address)

    def stop_accepting(self) -> None:
        self._is_stopping = True
        self.socket.shutdown(socket.SHUT_RDWR)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Runs in the connection's thread, so that a slow TLS handshake delays no other client."""
        if self._tls is None:
            self._serve(request, client_address)
            return
        try:
            secured = self._tls.wrap_socket(request, server_side=True)
        except (ssl.SSLError, OSError):
            return  # a client that does not trust us, or left
        self._serve(secured, client_address)

    def _serve(self, connection: Any, client_address: Any) -> None:
        self._open.add(connection)
        try:
            super().finish_request(connection, client_address)
        finally:
            self._open.discard(connection)
            if self._tls is not None:
                connection.close()

    def cut_connections(self) -> None:
        for connection in list(self._open):
            _cut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the client broke is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one segment
    server: _Server

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, ssl.SSLError, ValueError):
            self.close_connection = True

    def _answer(self) -> None:
        response = self.server.answer(self._read())
        if response.is_cut:
            self.close_connection = True
            _cut(self.connection)
            return
        self.send_response(response.status, _phrase(response.status))
        for name, value in response.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in response.headers:
            self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - http.server's names

    def _read(self) -> Request:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        return Request(
            method=self.command,
            path=unquote(parts.path),
            query_items=tuple(parse_qsl(parts.query, keep_blank_values=True)),
            headers=self.headers,
            body=self.rfile.read(length) if length else b"",
            raw_path=self.path,
        )

    def log_message(self, format: str, *args: object) -> None:
        """The call log is what remembers."""


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # already gone


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
