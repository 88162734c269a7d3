"""The server that the emulated clouds answer with."""

import ssl
import threading
from pathlib import Path

import httpx
import pytest

from cloudmanager.testing.cloud.authority import Authority
from cloudmanager.testing.cloud.wire import CUT, HttpServer, Request, Response


def echo(request: Request) -> Response:
    return Response.of_json(200, {"method": request.method, "path": request.path, "query": request.query_items})


def test_a_request_arrives_as_it_was_sent() -> None:
    with HttpServer(echo) as server:
        answer = httpx.post(f"{server.url}/a%20b?x=1&x=2&empty=")
    assert answer.json() == {"method": "POST", "path": "/a b", "query": [["x", "1"], ["x", "2"], ["empty", ""]]}


def test_one_connection_serves_many_requests() -> None:
    with HttpServer(echo) as server, httpx.Client() as client:
        assert [client.get(f"{server.url}/{n}").json()["path"] for n in range(3)] == ["/0", "/1", "/2"]


def test_a_cut_connection_gives_no_answer() -> None:
    with HttpServer(lambda _: CUT) as server, pytest.raises(httpx.RemoteProtocolError):
        httpx.get(server.url)


def test_a_head_request_has_no_body() -> None:
    with HttpServer(echo) as server:
        answer = httpx.head(f"{server.url}/x")
    assert answer.content == b""
    assert int(answer.headers["Content-Length"]) > 0


def test_requests_are_answered_beside_each_other() -> None:
    both = threading.Barrier(2, timeout=5)

    def meet(_: Request) -> Response:
        both.wait()
        return Response(204)

    with HttpServer(meet) as server:
        first = threading.Thread(target=httpx.get, args=(server.url,))
        first.start()
        assert httpx.get(server.url).status_code == 204
        first.join()


def test_stopping_ends_open_connections_and_frees_the_port() -> None:
    server = HttpServer(echo).start()
    with httpx.Client() as client:
        client.get(server.url)
        server.stop()
        with pytest.raises(httpx.TransportError):
            client.get(server.url)
    with HttpServer(echo, port=server.port) as again:
        assert httpx.get(again.url).status_code == 200


def test_https_is_trusted_by_those_who_trust_the_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    with HttpServer(echo, tls=authority.server_context()) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert httpx.get(server.url, verify=trusting).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(server.url)
        assert httpx.get(server.url, verify=trusting).status_code == 200


def test_the_keys_are_nobody_elses_to_read(tmp_path: Path) -> None:
    Authority(tmp_path)
    assert (tmp_path / "server.pem").stat().st_mode & 0o077 == 0
