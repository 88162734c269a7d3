"""What a client takes from whoever answers at the service's address, and what it refuses."""

import functools
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cloudmanager.client import calls, errors
from tests.client.conftest import MakeClient

pytestmark = pytest.mark.anyio

EXPORT: dict[str, Any] = {
    "id": "e1",
    "disk": "local:a.img",
    "access": "read-only",
    "holder": "me",
    "state": "ready",
    "uri": "nbd://127.0.0.1:10900/name",
    "size_bytes": 4096,
    "format": "raw",
    "created_at": "2026-01-01T00:00:00Z",
    "expires_at": "2026-01-01T01:00:00Z",
    "node": "n",
    "note": "",
    "credentials": None,
    "error": None,
    "tls": "off",
}
KEY = {"type": "tls-psk", "username": "u", "key": "ab" * 32}
Answer = Callable[[BaseHTTPRequestHandler], None]


class Service(ThreadingHTTPServer):
    """Answers every request in the way that a test wants."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Answer = as_json(EXPORT)
        self.sent_bytes = 0
        self.asked: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_GET(self) -> None:
        self.server.asked.append(dict(self.headers))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.answer(self)

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_message(self, *_arguments: object) -> None:
        pass


def as_json(content: object, status: int = 200, **headers: str) -> Answer:
    return as_bytes(json.dumps(content).encode(), status, **headers)


def as_bytes(body: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def endlessly(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    piece = b" " * 65536
    try:
        while True:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.server.sent_bytes += len(piece)  # type: ignore[attr-defined] # Service
    except OSError:
        handler.close_connection = True


def in_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    try:
        while True:
            handler.wfile.write(b"X-Filler: %s\r\n" % (b"x" * 60_000))
            handler.server.sent_bytes += 60_000  # type: ignore[attr-defined] # Service
    except OSError:
        handler.close_connection = True


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


async def test_what_a_service_answers_is_taken(make_client: MakeClient, service: Service) -> None:
    client = make_client(service.url)
    for change in ({}, {"tls": "psk", "uri": "nbds://[2001:db8::1]:10900/a-b_c", "credentials": KEY}, {"tls": None}):
        service.answer = as_json({**EXPORT, **change})
        assert (await client.get("e1")).address is not None
    assert {asked["Accept-Encoding"] for asked in service.asked} == {"identity"}


@pytest.mark.parametrize(
    "change",
    [
        {"uri": "file:///etc/shadow"},
        {"uri": "http://127.0.0.1/name"},
        {"uri": "https://127.0.0.1/name"},
        {"uri": "ssh://127.0.0.1/name"},
        {"uri": "json:{}"},
        {"uri": "nbd+unix:///name?socket=/run/docker.sock"},
        {"uri": "nbds+unix:///name?socket=/run/docker.sock", "tls": "psk", "credentials": KEY},
        {"uri": "nbd+ssh://127.0.0.1/name"},
        {"uri": "nbd+vsock://2/name"},
        {"uri": "nbd://127.0.0.1:10900/name?tls-psk-file=/etc/shadow"},
        {"uri": "nbds://127.0.0.1:10900/name?tls-certificates=/tmp", "tls": "x509"},
        {"uri": "nbd://127.0.0.1:10900/name#fragment"},
        {"uri": "nbd://127.0.0.1:10900/"},
        {"uri": "nbd://127.0.0.1:10900"},
        {"uri": "nbd:///name"},
        {"uri": "nbd://127.0.0.1:port/name"},
        {"uri": "nbd://127.0.0.1 --help:1/name"},
        {"uri": "nbd://a\nb:1/name"},
        {"uri": "-nbd://127.0.0.1:10900/name"},
        {"uri": ""},
        {"tls": "psk"},
        {"tls": "x509"},
        {"uri": "nbds://127.0.0.1:10900/name", "tls": "off"},
        {"credentials": KEY},
        {"credentials": KEY, "tls": None},
        {"uri": "nbds://h:1/n", "tls": "psk", "credentials": {**KEY, "type": "password"}},
        {"uri": "nbds://h:1/n", "tls": "psk", "credentials": {**KEY, "key": "ab" * 32 + "\nroot:00"}},
        {"uri": "nbds://h:1/n", "tls": "psk", "credentials": {**KEY, "username": "a:b\nc"}},
        {"id": "e2"},
    ],
    ids=lambda change: ascii(change)[1:60],
)
async def test_an_address_of_another_kind_is_refused(
    make_client: MakeClient, service: Service, change: dict[str, Any]
) -> None:
    service.answer = as_json({**EXPORT, **change})
    client = make_client(service.url)
    for ask in (client.get, client.wait, client.renew, client.release):
        with pytest.raises(errors.UnexpectedAnswer):
            await ask("e1")
    if "id" not in change:
        service.answer = as_json({"items": [{**EXPORT, **change}], "next_page": None})
        with pytest.raises(errors.UnexpectedAnswer):
            [export async for export in client.exports()]


@pytest.mark.parametrize("change", [{"access": "read-write"}, {"access": "scratch"}, {"disk": "local:b.img"}])
async def test_an_export_of_something_else_is_refused(
    make_client: MakeClient, service: Service, change: dict[str, Any]
) -> None:
    service.answer = as_json({**EXPORT, **change}, 201)
    client = make_client(service.url)
    with pytest.raises(errors.UnexpectedAnswer, match="not an export of local:a"):
        await client.claim("local:a.img")
    with pytest.raises(errors.UnexpectedAnswer, match="not an export of local:a"):
        async with client.export("local:a.img"):
            pytest.fail("the block ran")


async def test_an_address_in_the_clear_is_refused_where_certificates_were_given(
    make_client: MakeClient, service: Service, tmp_path: Path
) -> None:
    with pytest.raises(errors.UnexpectedAnswer, match="in the clear"):
        async with make_client(service.url, certificates=tmp_path).export("local:a.img"):
            pytest.fail("the block ran")


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip", "x-made-up"])
async def test_a_packed_answer_is_refused_unopened(make_client: MakeClient, service: Service, encoding: str) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    service.answer = as_bytes(bomb, Content_Encoding=encoding)
    with pytest.raises(errors.UnexpectedAnswer, match="is packed"):
        await make_client(service.url).get("e1")
    assert len(service.asked) == 1, "it is not asked for again"


@pytest.mark.parametrize("answer", [endlessly, in_headers])
async def test_an_endless_answer_is_left(make_client: MakeClient, service: Service, answer: Answer) -> None:
    service.answer = answer
    with pytest.raises((errors.UnexpectedAnswer, errors.Unreachable)):
        await make_client(service.url, retry_seconds=0).get("e1")
    assert service.sent_bytes < 64 * 1024 * 1024


async def test_a_list_that_never_ends_is_left(make_client: MakeClient, service: Service) -> None:
    service.answer = as_json({"items": [], "next_page": "again"})
    with pytest.raises(errors.UnexpectedAnswer, match="never end"):
        [node async for node in make_client(service.url).nodes()]
    assert len(service.asked) == 2


@pytest.mark.parametrize(
    "body", [b"[" * 1_000_000, b'{"a":' * 1_000_000, b"1" * 10_000, b"\xff\xfe", b"", b"null", b"[]", b'{"id": NaN}']
)
async def test_content_that_is_no_export_is_an_error_of_the_clients(
    make_client: MakeClient, service: Service, body: bytes
) -> None:
    service.answer = as_bytes(body)
    with pytest.raises(errors.UnexpectedAnswer):
        await make_client(service.url).get("e1")


async def test_an_answer_that_drips_is_left(
    make_client: MakeClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        try:
            while not is_over.wait(0.05):
                handler.wfile.write(b" ")
        except OSError:
            pass
        handler.close_connection = True

    service.answer = drip
    shorter = functools.partial(calls.release_request, answer_seconds=0.5)
    monkeypatch.setattr(calls, "release_request", shorter)
    try:
        with pytest.raises(errors.Unreachable, match="too slowly"):
            await make_client(service.url, retry_seconds=0).release("e1")
    finally:
        is_over.set()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(502, errors.ServiceError), (407, errors.UnexpectedAnswer), (200, errors.UnexpectedAnswer)],
)
async def test_an_error_that_came_through_a_proxy_names_it(
    make_client: MakeClient,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[errors.ClientError],
) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{service.server_port}")
    service.answer = as_bytes(b"<html>no</html>", status, Content_Type="text/html")
    with pytest.raises(kind) as caught:
        await make_client("http://service.test:8600", retry_seconds=0).get("e1")
    assert service.url in caught.value.detail
    assert "secret" not in caught.value.detail


async def test_a_proxy_that_does_not_answer_is_named(
    make_client: MakeClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(errors.Unreachable, match="through the proxy http://127"):
        await make_client("http://service.test:8600", retry_seconds=0).get("e1")
    assert (await make_client(service.url).get("e1")).id == "e1", "loopback is reached without it"
