"""One rule for proxies and one trust store, whichever part of the client speaks HTTP."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cloudmanager.client import CloudManager, network
from cloudmanager.client.errors import ClientError, InvalidSetup
from tests.authority import Authority

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def answering(context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[str]]]:
    """The port of an HTTP server, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Proxy-Authorization', '')}".strip())
            body = json.dumps({"code": "internal_error", "detail": "an answer"}).encode()
            self.send_response(500)
            self.send_header("Content-Type", "application/problem+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


def by_httpx(url: str) -> str:
    try:
        CloudManager(url, retry_seconds=0).disk("local:a")
    except ClientError as error:
        return error.detail
    raise AssertionError("there is no such service")


def by_http_client(url: str) -> str:
    connection = network.connection(url, 60)
    try:
        connection.request("GET", "/v1/disks/local:a")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


both = pytest.mark.parametrize("ask", [by_httpx, by_http_client])
Ask = Callable[[str], str]


@both
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_every_part_of_the_client_uses_the_proxy(ask: Ask, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering() as (port, asked):
        monkeypatch.setenv(variable, f"http://me:p%40ss@127.0.0.1:{port}")
        assert "an answer" in ask("http://service.invalid:8600")
    assert asked[0].startswith("http://service.invalid:8600/v1/disks/local")
    assert asked[0].endswith("Basic bWU6cEBzcw==")


@both
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1"])
def test_loopback_is_never_reached_through_a_proxy(ask: Ask, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with answering() as (port, asked):
        assert "an answer" in ask(f"http://{host}:{port}")
    assert asked[0].startswith("/v1/disks/local")


def test_hosts_can_be_excepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", "lab.example,other.example:8443")
    assert network.proxy_for("https://service.example") == network.Proxy("proxy.example", 3128)
    assert network.proxy_for("https://service.lab.example") is None
    assert network.proxy_for("https://user@other.example:8443/x") is None
    assert network.proxy_for("http://service.example") is None


def test_a_kind_of_proxy_that_is_not_supported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(InvalidSetup, match="'socks5'"):
        network.connection("http://service.invalid", 1)
    with pytest.raises(InvalidSetup, match="'socks5'"):
        CloudManager("http://service.invalid").disk("local:a")


@both
def test_every_part_of_the_client_trusts_the_same_authorities(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Authority().server(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "server-cert.pem", made / "server-key.pem")
    with answering(context) as (port, asked):
        monkeypatch.setenv("SSL_CERT_FILE", str(made / "ca-cert.pem"))
        assert "an answer" in ask(f"https://localhost:{port}")
    assert asked


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_missing_authorities_are_one_line(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "/nowhere/ca.pem")
    with pytest.raises(InvalidSetup, match=rf"^{variable} names /nowhere/ca.pem[^\n]*$"):
        network.connection("https://service.invalid", 1)
    with pytest.raises(InvalidSetup, match=f"{variable} names"):
        CloudManager("https://service.invalid").disk("local:a")


def test_a_file_without_certificates_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").write_text("nothing of the kind")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(InvalidSetup, match="no certificates"):
        network.tls_context()


def test_a_url_is_shown_without_what_gives_access() -> None:
    url = "https://me:secret@store.example:8443/disks/a.raw?X-Amz-Signature=secret#secret"
    assert network.without_secrets(url) == "https://store.example:8443/disks/a.raw"
    assert "secret" not in network.without_secrets("https://[secret?secret")


@pytest.mark.parametrize("url", ["http://host.example/", "https://host.example/"])
def test_a_connection_that_is_dialled_names_its_host_without_the_usual_port(url: str) -> None:
    """A signature of a URL may be about the header Host."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = network.connection(url, 5, lambda address, seconds: pytest.fail(f"{address}, {seconds}"))
        connection.sock = ours
        connection.request("GET", "/image.raw")
        assert b"\r\nHost: host.example\r\n" in theirs.recv(4096)
