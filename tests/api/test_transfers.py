"""Content that is sent through the service, and checksums that it takes."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import zstandard

from cloudmanager.api import transfers
from cloudmanager.api.serving import GRACE_SECONDS
from cloudmanager.core.errors import InvalidContent
from cloudmanager.core.nbd.transfer import _decompressed
from cloudmanager.transfer.digests import BLOCK_BYTES, DIGEST_BYTES
from cloudmanager.transfer.frames import MEDIA_TYPE, MOST_BYTES, Encoding, Frame
from tests.api.service import Service, running, settings_for
from tests.waiting import eventually

SIZE = 8 * MOST_BYTES
HEADERS = {"Content-Type": MEDIA_TYPE}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transfers")


@pytest.fixture(scope="module", params=["off", "psk"])
def service(request: pytest.FixtureRequest, directory: Path) -> Iterator[Service]:
    with running(settings_for(directory, nbd={"tls": request.param})) as service:
        yield service


@pytest.fixture
def disk(directory: Path, service: Service, request: pytest.FixtureRequest) -> Path:
    """An empty one of its own for each test."""

    path = directory / "images" / f"{request.node.originalname}.raw"
    with path.open("wb") as file:
        file.truncate(0)
        file.truncate(SIZE)
    return path


@pytest.fixture
def export(service: Service, disk: Path) -> Iterator[dict[str, object]]:
    export = service.export(f"local:{disk.name}", "read-write")
    yield export
    _end(service, export)


def _end(service: Service, export: dict[str, object]) -> None:
    service.client.delete(_path(export))
    eventually(lambda: service.client.get(_path(export)).json()["state"] == "closed", "it does not close")


def _path(export: dict[str, object], what: str = "") -> str:
    return f"/v1/exports/{export['id']}{what}"


def _zstd(offset: int, plain: bytes) -> bytes:
    return Frame(offset, len(plain), Encoding.ZSTD, zstandard.compress(plain)).packed()


def _raw(offset: int, plain: bytes) -> bytes:
    return Frame(offset, len(plain), Encoding.RAW, plain).packed()


def _send(service: Service, export: dict[str, object], body: bytes | Iterator[bytes]) -> httpx.Response:
    return service.client.post(_path(export, "/content"), content=body, headers=HEADERS)


def _text(length: int) -> bytes:
    return (b"all work and no play " * (length // 20))[:length]


def test_frames_of_both_kinds_arrive_where_they_belong(service: Service, disk: Path, export: dict[str, object]) -> None:
    noise, text = os.urandom(MOST_BYTES), _text(MOST_BYTES)
    answer = _send(service, export, _raw(4096, noise) + _zstd(3 * MOST_BYTES, text) + _zstd(SIZE - 512, text[:512]))
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"written_bytes": 2 * MOST_BYTES + 512}
    written = disk.read_bytes()
    assert written[4096 : 4096 + MOST_BYTES] == noise
    assert written[3 * MOST_BYTES : 4 * MOST_BYTES] == text
    assert written[-512:] == text[:512]
    assert not written[:4096].strip(b"\0")


def test_chunks_may_have_their_borders_anywhere(service: Service, disk: Path, export: dict[str, object]) -> None:
    body = b"".join(_zstd(at, _text(5000)) for at in range(0, 100_000, 8192))
    assert _send(service, export, (body[at : at + 7] for at in range(0, len(body), 7))).status_code == 200
    assert disk.read_bytes()[8192 : 8192 + 5000] == _text(5000)


def test_an_empty_body_writes_nothing(service: Service, export: dict[str, object]) -> None:
    assert _send(service, export, b"").json() == {"written_bytes": 0}


def test_a_scratch_export_takes_it_and_the_disk_stays_as_it_is(service: Service, disk: Path) -> None:
    export = service.export(f"local:{disk.name}", "scratch")
    assert _send(service, export, _zstd(0, _text(MOST_BYTES))).status_code == 200
    answer = service.client.get(_path(export, "/digests"), params={"length": BLOCK_BYTES})
    assert answer.json()["digests"] != "00" * DIGEST_BYTES
    assert not disk.read_bytes().strip(b"\0")
    _end(service, export)


def test_it_is_refused_where_nothing_may_be_written(service: Service, disk: Path) -> None:
    export = service.export(f"local:{disk.name}", "read-only")
    answer = _send(service, export, _raw(0, b"x" * 512))
    assert (answer.status_code, answer.json()["code"]) == (422, "unsupported_access")
    _end(service, export)
    answer = _send(service, export, _raw(0, b"x" * 512))
    assert (answer.status_code, answer.json()["code"]) == (409, "export_over")
    answer = _send(service, {"id": "absent"}, b"")
    assert (answer.status_code, answer.json()["code"]) == (404, "export_not_found")
    assert not disk.read_bytes().strip(b"\0")


def test_another_media_type_is_refused(service: Service, export: dict[str, object]) -> None:
    answer = service.client.post(_path(export, "/content"), content=b"", headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def _header(
    magic: bytes = b"CMF1",
    offset: int = 0,
    length: int = 512,
    body: int = 512,
    encoding: int = 0,
    reserved: bytes = b"\0\0\0",
) -> bytes:
    return struct.pack(">4sQIIB3s", magic, offset, length, body, encoding, reserved)


def _lying(claimed: int, plain: bytes) -> bytes:
    """A zstd frame that claims another content size than it has: single segment, 4 bytes of size."""
    made = zstandard.ZstdCompressor(write_content_size=False).compress(plain)
    block = made[6:]  # magic, descriptor, window: a frame without a size has those
    return made[:4] + bytes([0b10100000]) + struct.pack("<I", claimed) + block


_BOMB = zstandard.compress(bytes(64 * MOST_BYTES))
_NO_SIZE = zstandard.ZstdCompressor(write_content_size=False).compress(_text(4096))
HOSTILE = {
    "not a frame": b"GET / HTTP/1.1\r\n\r\n" * 4,
    "reserved bytes": _header(reserved=b"abc") + bytes(512),
    "nothing": _header(length=0, body=0),
    "too long": _header(length=MOST_BYTES + 1, body=MOST_BYTES + 1),
    "as long as there are numbers": _header(length=2**32 - 1, body=2**32 - 1),
    "a body of another length": _header(length=512, body=256) + bytes(256),
    "a compressed body that is longer": _header(length=16, body=4096, encoding=1) + bytes(4096),
    "an unknown encoding": _header(encoding=9) + bytes(512),
    "beyond the end": _raw(SIZE - 256, b"x" * 512),
    "beyond every end": _raw(2**64 - 512, b"x" * 512),
    "a cut header": _header()[:10],
    "a cut body": _header() + bytes(100),
    "no zstd": _header(length=4096, body=100, encoding=1) + b"x" * 100,
    "a bomb": _header(length=MOST_BYTES, body=len(_BOMB), encoding=1) + _BOMB,
    "zstd that says no size": _header(length=4096, body=len(_NO_SIZE), encoding=1) + _NO_SIZE,
    "a bomb that lies": _header(length=MOST_BYTES, body=len(_lying(MOST_BYTES, bytes(2 * MOST_BYTES))), encoding=1)
    + _lying(MOST_BYTES, bytes(2 * MOST_BYTES)),
    "zstd that becomes less": _header(length=8192, body=len(_lying(8192, _text(4096))), encoding=1)
    + _lying(8192, _text(4096)),
    "zstd and something more": _header(length=4096, body=len(zstandard.compress(_text(4096))) + 3, encoding=1)
    + zstandard.compress(_text(4096))
    + b"abc",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_frame_is_refused_and_not_written(
    body: bytes, service: Service, disk: Path, export: dict[str, object]
) -> None:
    answer = _send(service, export, body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_content"), answer.text
    assert not disk.read_bytes().strip(b"\0")
    assert _send(service, export, _zstd(0, _text(4096))).status_code == 200


def test_digests_are_those_of_the_blocks(service: Service, disk: Path, export: dict[str, object]) -> None:
    content = _text(BLOCK_BYTES) + bytes(BLOCK_BYTES) + os.urandom(1024)
    with disk.open("r+b") as file:
        file.write(content)
    answer = service.client.get(_path(export, "/digests"), params={"offset": 0, "length": SIZE}).json()
    digests = bytes.fromhex(answer["digests"])
    blocks = [content[at : at + BLOCK_BYTES].ljust(BLOCK_BYTES, b"\0") for at in range(0, 3 * BLOCK_BYTES, BLOCK_BYTES)]
    first, _zeros, last = (hashlib.sha256(block).digest()[:DIGEST_BYTES] for block in blocks)
    assert answer["block_bytes"] == BLOCK_BYTES
    assert digests == first + bytes(DIGEST_BYTES) + last + bytes(SIZE // BLOCK_BYTES * DIGEST_BYTES - 3 * DIGEST_BYTES)


@pytest.mark.parametrize("query", [{"offset": 5, "length": 512}, {"offset": SIZE, "length": 512}, {"length": 0}, {}])
def test_a_range_that_has_no_digests_is_refused(
    query: dict[str, int], service: Service, export: dict[str, object]
) -> None:
    answer = service.client.get(_path(export, "/digests"), params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


class _Unfinished:
    """A request whose body goes on for as long as the test likes."""

    def __init__(self, service: Service, export: dict[str, object]) -> None:
        where = urlsplit(service.url)
        self.socket = socket.create_connection((where.hostname, where.port), timeout=30)
        self.socket.sendall(
            f"POST {_path(export, '/content')} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: {MEDIA_TYPE}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )

    def send(self, body: bytes) -> None:
        self.socket.sendall(b"%x\r\n%s\r\n" % (len(body), body))

    def answer(self) -> bytes:
        with self.socket, http.client.HTTPResponse(self.socket) as response:
            response.begin()
            return response.read()


def _transfers(service: Service) -> int:
    return service.server.async_manager.transfers._running.total()


def test_a_client_that_leaves_ends_the_writing(service: Service, disk: Path, export: dict[str, object]) -> None:
    request = _Unfinished(service, export)
    request.send(_zstd(0, _text(MOST_BYTES)) + _raw(MOST_BYTES, _text(MOST_BYTES))[:-1])
    eventually(lambda: disk.read_bytes()[:MOST_BYTES] == _text(MOST_BYTES), "it is not written")
    assert _transfers(service) == 1
    request.socket.close()
    eventually(lambda: _transfers(service) == 0, "it goes on")
    assert not disk.read_bytes()[MOST_BYTES:].strip(b"\0")


def test_an_export_that_ends_in_the_middle_ends_the_request(
    service: Service, disk: Path, export: dict[str, object]
) -> None:
    request = _Unfinished(service, export)
    request.send(_zstd(0, _text(MOST_BYTES)))
    eventually(lambda: disk.read_bytes()[:MOST_BYTES] == _text(MOST_BYTES), "it is not written")
    service.client.post(_path(export, "/force-release"), json={})
    request.send(_zstd(MOST_BYTES, _text(MOST_BYTES)))
    assert b'"transfer_failed"' in request.answer()
    eventually(lambda: _transfers(service) == 0, "it goes on")


def test_so_many_at_the_same_time_and_no_more(
    service: Service, export: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "MOST_OF_ONE_EXPORT", 2)
    requests = [_Unfinished(service, export) for _ in range(2)]
    eventually(lambda: _transfers(service) == 2, "they do not begin")
    answer = _send(service, export, b"")
    assert (answer.status_code, answer.json()["code"], answer.json()["retriable"]) == (
        503,
        "transfer_unavailable",
        True,
    )
    for request in requests:
        request.socket.close()
    eventually(lambda: _transfers(service) == 0, "they go on")
    assert _send(service, export, b"").status_code == 200


def test_who_sends_nothing_is_not_waited_for(
    service: Service, export: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "IDLE_SECONDS", 0.2)
    request = _Unfinished(service, export)
    assert b'"transfer_failed"' in request.answer()
    assert _transfers(service) == 0


def test_other_requests_are_answered_meanwhile(service: Service, export: dict[str, object]) -> None:
    """With every place of the export taken by a client that sends as fast as it can."""
    body = b"".join(_zstd(at, os.urandom(512) * (MOST_BYTES // 512)) for at in range(0, SIZE, MOST_BYTES)) * 4
    is_over = threading.Event()

    def send() -> None:
        with httpx.Client(base_url=service.url, timeout=30) as client:
            while not is_over.is_set():
                client.post(_path(export, "/content"), content=body, headers=HEADERS).raise_for_status()

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    took = []
    for _ in range(100):
        began = time.perf_counter()
        service.client.get(_path(export)).raise_for_status()
        took.append(time.perf_counter() - began)
    is_over.set()
    for sender in senders:
        sender.join()
    assert statistics.quantiles(took, n=100)[98] < 2.0  # on a machine that does other things too


def test_the_end_of_the_service_ends_them(tmp_path: Path) -> None:
    with running(settings_for(tmp_path)) as service:
        (tmp_path / "images" / "disk.raw").write_bytes(bytes(SIZE))
        export = service.export("local:disk.raw", "read-write")
        request = _Unfinished(service, export)
        request.send(_zstd(0, _text(MOST_BYTES)))
        eventually(lambda: _transfers(service) == 1, "it does not begin")
        began = time.monotonic()
        service.server.should_exit = True
        assert b'"shutting_down"' in request.answer()
        assert time.monotonic() - began < GRACE_SECONDS  # what other requests have


class _NotToBeUsed:
    def decompress(self, *_: object, **__: object) -> bytes:
        pytest.fail("it is decompressed")


def test_a_bomb_is_refused_before_it_becomes_anything() -> None:
    with pytest.raises(InvalidContent):
        _decompressed(Frame(0, MOST_BYTES, Encoding.ZSTD, _BOMB), _NotToBeUsed())  # type: ignore[arg-type] # a trap
