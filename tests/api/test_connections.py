"""Whoever sends half a request is cut off, and cannot keep the others out."""

import hashlib
import json
import logging
import re
import resource
import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloudmanager.api import connections, serving
from tests.api.service import Service, running, settings_for
from tests.waiting import eventually

TOKEN = "correct-horse-battery-staple"
Connect = Callable[..., socket.socket]
MOST = 40
SOON = 20.0
"""For what takes half a second on an idle machine."""
BEARER = f"Authorization: Bearer {TOKEN}\r\nHost: x\r\n".encode()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes a fraction of one."""
    for phase in connections._SECONDS:
        monkeypatch.setitem(connections._SECONDS, phase, 0.4)
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.4)


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service with a token, of 40 connections at the most, ten of them strangers'."""
    monkeypatch.setattr(serving, "most_connections", lambda: MOST)
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.img").write_bytes(bytes(1 << 20))
    with running(settings_for(tmp_path, server={"token_sha256": [digest]}), token=TOKEN) as service:
        yield service


@pytest.fixture
def connect(guarded: Service) -> Iterator[Connect]:
    with ExitStack() as stack:

        def one(sent: bytes = b"") -> socket.socket:
            host, _, port = guarded.url.removeprefix("http://").partition(":")
            made = stack.enter_context(socket.create_connection((host, int(port))))
            made.settimeout(SOON)
            made.sendall(sent)
            return made

        yield one


def is_cut_off(connection: socket.socket) -> bool:
    """Waits for it. What was answered before does not count."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def answer(connection: socket.socket) -> bytes:
    """Of known length."""
    received = b""
    while True:
        head, end, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if end and length and len(body) >= int(length[1]):
            return received
        received += connection.recv(65536) or pytest.fail("it was cut off")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        b"GET /v1/exports HTTP/1.1\r\n",
        b"GET /v1/exports HTTP/1.1\r\n" + BEARER,
        b"POST /v1/exports HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v1/exports HTTP/1.1\r\nContent-Length: 100\r\n" + BEARER + b"\r\n{",
        b"POST /v1/exports HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + BEARER + b"\r\n5\r\n{",
        b"POST /v1/exports HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n" + BEARER + b"\r\n",
        b"POST /v1/exports/x/content HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /he",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n\r\n",
        b"GET /v1/nodes HTTP/1.1\r\n" + BEARER + b"\r\nGET /v1/nodes HTTP/1.1\r\n",
    ],
    ids=range(12),
)
def test_half_a_request_is_cut_off(
    hurried: None, connect: Connect, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert is_cut_off(connect(sent))
    assert not [record for record in caplog.records if record.exc_info]


def test_a_body_that_stands_still_is_cut_off(hurried: None, connect: Connect, guarded: Service) -> None:
    export_id = guarded.export("local:a.img", "scratch")["id"]
    head = f"POST /v1/exports/{export_id}/content HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
    kind = "Content-Type: application/vnd.cloudmanager.frames\r\n"
    assert is_cut_off(connect((head + kind).encode() + BEARER + b"\r\n5\r\n{"))


@pytest.mark.parametrize(
    "head", [b"GET /v1/exports HTTP/1.1\r\n" + BEARER, b"POST /v1/exports HTTP/1.1\r\nContent-Length: 9\r\n" + BEARER]
)
def test_dripping_does_not_help(hurried: None, connect: Connect, head: bytes) -> None:
    """A byte now and then: the time of a phase does not begin anew."""
    connection = connect(head)
    connection.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        for _ in range(400):
            if selector.select(0.05):
                break
            connection.send(b"\r\n" if head.startswith(b"POST") else b"X")
        else:
            pytest.fail("it was never cut off")


def test_who_has_asked_may_wait_and_come_again(hurried: None, connect: Connect, guarded: Service) -> None:
    """Longer than a request may take to be sent."""
    slow = connect(b"GET /v1/exports/none HTTP/1.1\r\nPrefer: wait=1\r\n" + BEARER + b"\r\n")
    assert answer(slow).startswith(b"HTTP/1.1 404")
    assert not selected(slow, 1.0), "an idle connection was cut off"
    slow.sendall(b"GET /v1/nodes HTTP/1.1\r\n" + BEARER + b"\r\n")
    assert answer(slow).startswith(b"HTTP/1.1 200")


def selected(connection: socket.socket, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(seconds))


@pytest.mark.parametrize("sent", [b"", b"GET /v1/exports HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_seven_hundred_of_them_keep_nobody_out(connect: Connect, guarded: Service, sent: bytes) -> None:
    crowd = [connect(sent) for _ in range(700)]
    assert guarded.client.get("/v1/nodes").status_code == 200
    registry = guarded.server.config.http_protocol_class.others  # type: ignore[attr-defined] # connections.Connection
    assert len(registry) <= MOST // connections.STRANGERS_SHARE + 1
    assert is_cut_off(crowd[0])
    waiting = connect(b"GET /v1/nodes HTTP/1.1\r\n" + BEARER + b"\r\n")
    assert answer(waiting).startswith(b"HTTP/1.1 200")


def test_who_may_call_is_not_closed_for_strangers(connect: Connect, guarded: Service) -> None:
    """Nor for others who may, while it waits for an answer."""
    export = guarded.export("local:a.img", wait=None)
    idle = connect(b"GET /v1/nodes HTTP/1.1\r\n" + BEARER + b"\r\n")
    assert answer(idle).startswith(b"HTTP/1.1 200")
    for _ in range(200):
        connect(b"GET / HTTP/1.1\r\n")
    idle.sendall(b"GET /v1/exports/%s HTTP/1.1\r\n" % str(export["id"]).encode() + BEARER + b"\r\n")
    assert answer(idle).startswith(b"HTTP/1.1 200")


def test_idle_connections_are_closed_first_the_longest_idle_one_before_the_others(
    connect: Connect, guarded: Service
) -> None:
    asked = b"GET /v1/nodes HTTP/1.1\r\n" + BEARER + b"\r\n"
    first = connect(asked)
    assert answer(first)
    second = connect(asked)
    assert answer(second)
    first.sendall(asked)
    assert answer(first)
    for _ in range(MOST - 1):
        assert answer(connect(asked)).startswith(b"HTTP/1.1 200")
    assert is_cut_off(second)


def test_a_reader_that_does_not_read_is_cut_off(
    hurried: None, connect: Connect, guarded: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks, pipelined, for more than fits between the two."""
    connection = connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asked = b"GET /openapi.json HTTP/1.1\r\n" + BEARER + b"\r\n"
    registry = guarded.server.config.http_protocol_class.others  # type: ignore[attr-defined] # connections.Connection
    try:
        for _ in range(200):
            connection.sendall(asked)
    except OSError:
        pass
    eventually(lambda: not [each for each in registry._open if each.transport.is_closing()], "it is kept")
    eventually(lambda: is_gone(connection), "it is kept")


def is_gone(connection: socket.socket) -> bool:
    try:
        connection.send(b"G")
    except OSError:
        return True
    return False


def test_fewer_files_are_fewer_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, most in ((64, 16), (1024, 256), (1_000_000, connections.MOST), (-1, connections.MOST)):
        monkeypatch.setattr(resource, "getrlimit", lambda _number, soft=soft: (soft, soft))
        assert connections.most_connections() == most


def test_an_answer_is_complete_json_after_all(guarded: Service) -> None:
    assert json.loads(guarded.client.get("/openapi.json").content)["openapi"]
