"""Requests to the service that exports the target: content as frames, and checksums."""

import http.client
import json
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Self

from cloudmanager.client import network
from cloudmanager.client.deploy.errors import ConnectionLost, DeployError, TargetError
from cloudmanager.client.deploy.nbd_ends import NbdWriter
from cloudmanager.client.service import Service, UploadEndpoint
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.extents import Extent
from cloudmanager.transfer.frames import MEDIA_TYPE, MOST_BYTES, Encoding, Frame
from cloudmanager.transfer.libnbd import Timeouts

_LOOK_AROUND_SECONDS = 0.25
_IDLE_SECONDS = 2.0
"""A service closes a connection that was not used for a few seconds."""
_NOT_OFFERED = frozenset(
    {"route_not_found", "method_not_allowed", "transfer_unavailable", "unauthorized", "host_refused"}
)


class NotOffered(ConnectionLost):
    """The service does not do this, or not now, as NBD does. What was sent may be lost."""


class ServiceLine:
    """One thread's connection to the service. Raises ConnectionLost, NotOffered, TargetError."""

    def __init__(self, upload_via: UploadEndpoint, timeouts: Timeouts) -> None:
        self._upload_via = upload_via
        self._timeouts = timeouts
        self._http: http.client.HTTPConnection | None = None
        self._used_at = 0.0
        self._is_sending = False
        self._sent_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def connect(self) -> None:
        with self._guarded():
            self._connected()

    def send(self, frame: Frame) -> None:
        """The service writes it when it has come."""
        if not self._is_sending:
            self._begin()
        header = frame.header
        self._send(b"%x\r\n%b" % (len(header) + len(frame.body), header), frame.body, b"\r\n")
        self._sent_bytes += frame.length

    def settle(self) -> None:
        """Returns when the target has acknowledged every frame that was sent."""
        if not self._is_sending:
            return
        self._send(b"0\r\n\r\n")
        self._is_sending = False
        written = self._answer().get("written_bytes")
        if written != self._sent_bytes:
            raise TargetError(f"The service has written {written} bytes of the {self._sent_bytes} that were sent.")

    def digests(self, extent: Extent) -> bytes:
        """The checksums of the range's blocks, taken by the service."""
        with self._guarded():
            path = self._upload_via.path("digests")
            headers = self._upload_via.service.headers
            self._connected().request("GET", f"{path}?offset={extent.offset}&length={extent.length}", headers=headers)
        return bytes.fromhex(str(self._answer().get("digests", "")))

    def _begin(self) -> None:
        with self._guarded():
            connection = self._connected()
            connection.putrequest("POST", self._upload_via.path("content"), skip_accept_encoding=True)
            headers = {**self._upload_via.service.headers, "Content-Type": MEDIA_TYPE, "Transfer-Encoding": "chunked"}
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
        self._is_sending, self._sent_bytes = True, 0

    def _send(self, *parts: bytes | memoryview) -> None:
        """As few packets as possible, and without putting the parts together first."""
        deadline = time.monotonic() + self._timeouts.stall_seconds
        try:
            left = _as_sent(self._socket, parts)
            while left:
                try:
                    left = _after(left, _sent(self._socket, left))
                    deadline = time.monotonic() + self._timeouts.stall_seconds
                except TimeoutError:
                    self._look_around(deadline)
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> DeployError:
        """A server that answers before everything was sent has given the reason and closes the connection."""
        try:
            self._answer()
        except DeployError as refused:
            return refused
        return self._lost(error)

    def _answer(self) -> dict[str, object]:
        with self._guarded():
            deadline = time.monotonic() + self._timeouts.stall_seconds
            while not select.select([self._socket], [], [], _LOOK_AROUND_SECONDS)[0]:
                self._look_around(deadline)
            return self._received()

    def _received(self) -> dict[str, object]:
        connection = self._http
        if connection is None:
            raise ConnectionResetError("The connection was closed")
        self._socket.settimeout(self._timeouts.stall_seconds)
        response = connection.getresponse()
        body = response.read()
        if response.will_close:
            self._drop()
        else:
            self._socket.settimeout(_LOOK_AROUND_SECONDS)
            self._used_at = time.monotonic()
        return _understood(response.status, body)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error

    def _connected(self) -> http.client.HTTPConnection:
        if self._http is not None and time.monotonic() - self._used_at > _IDLE_SECONDS:
            self._drop()
        if self._http is None:
            self._http = _connection(self._upload_via.service, self._timeouts.connect_seconds)
            self._http.connect()
            self._socket.settimeout(_LOOK_AROUND_SECONDS)
        return self._http

    @property
    def _socket(self) -> socket.socket:
        if self._http is None or self._http.sock is None:
            raise ConnectionResetError("The connection was closed")
        made: socket.socket = self._http.sock
        return made

    def _look_around(self, deadline: float) -> None:
        self._timeouts.check()
        if time.monotonic() > deadline:
            raise ConnectionResetError("it stopped answering")

    def _lost(self, error: Exception) -> ConnectionLost:
        self._drop()
        return ConnectionLost(f"The connection to the service ended: {error}.")

    def _drop(self) -> None:
        self._is_sending = False
        if self._http is not None:
            self._http.close()
            self._http = None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("cloudmanager", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(service: Service, seconds: float) -> http.client.HTTPConnection:
    if service.socket_path is not None:
        return _UnixConnection(service.socket_path, seconds)
    return network.connection(service.base_url, seconds)


def _as_sent(connection: socket.socket, parts: Sequence[bytes | memoryview]) -> list[memoryview]:
    """TLS sends one at a time, and makes records of it."""
    return [memoryview(b"".join(parts))] if isinstance(connection, ssl.SSLSocket) else [memoryview(p) for p in parts]


def _sent(connection: socket.socket, parts: Sequence[memoryview]) -> int:
    """How many bytes."""
    return connection.send(parts[0]) if len(parts) == 1 else connection.sendmsg(parts)


def _after(parts: Sequence[memoryview], count: int) -> list[memoryview]:
    """What is left of them."""
    left: list[memoryview] = []
    for part in parts:
        rest = part[count:]
        count = max(0, count - len(part))
        if rest:
            left.append(rest)
    return left


def _understood(status: int, body: bytes) -> dict[str, object]:
    """Raises ConnectionLost for what may pass, NotOffered, TargetError."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    if status == http.client.OK:
        return answer
    detail = str(answer.get("detail") or f"It answered {status}.")
    if answer.get("code") in _NOT_OFFERED or not answer.get("code"):
        raise NotOffered(detail)
    if answer.get("retriable"):
        raise ConnectionLost(detail)
    raise TargetError(f"The target cannot be written: {detail}")


_WORTH_IT = 0.95
_MOST_LEFT_OUT = 15
"""After frames that did not become shorter, so many go without an attempt."""
_KEPT_BYTES = 4 * MOST_BYTES
"""malloc keeps what is freed if a block of this size was freed before; else every frame's memory is the kernel's again,
and is made anew page by page. That took a seventh of the time (mallopt(3), M_MMAP_THRESHOLD)."""


class Packer:
    """Makes frames of bytes. For one thread."""

    def __init__(self, level: int) -> None:
        """Raises ModuleNotFoundError."""
        import zstandard  # noqa: PLC0415 # an extra, and needed on slow links only

        self._compressor = zstandard.ZstdCompressor(level=level)
        bytearray(_KEPT_BYTES)
        self._left_out = 0
        self._to_leave_out = 0

    def frame(self, offset: int, plain: memoryview) -> Frame:
        """It may refer to `plain`."""
        if self._to_leave_out:
            self._to_leave_out -= 1
            return Frame(offset, len(plain), Encoding.RAW, plain)
        body = self._compressor.compress(plain)
        if len(body) > _WORTH_IT * len(plain):
            self._left_out = min(2 * self._left_out + 1, _MOST_LEFT_OUT)
            self._to_leave_out = self._left_out
            return Frame(offset, len(plain), Encoding.RAW, plain)
        self._left_out = 0
        return Frame(offset, len(plain), Encoding.ZSTD, body)


class WireWriter:
    """One thread's. Its NBD connection is made when it is first needed."""

    def __init__(self, line: ServiceLine, packer: Packer, connect: Callable[[], NbdWriter]) -> None:
        self._line = line
        self._packer = packer
        self._connect = connect
        self._start = 0
        self._gathered = Buffer(MOST_BYTES)
        self._length = 0

    def extents(self, extent: Extent) -> list[Extent]:
        return self._nbd.extents(extent)

    def begin(self, buffer: Buffer, at: int, piece: Extent) -> None:
        """It is copied, so the buffer is free at once."""
        if piece.offset != self._start + self._length or self._length + piece.length > MOST_BYTES:
            self._send()
            self._start = piece.offset
        end = self._length + piece.length
        self._gathered.view[self._length : end] = buffer.view[at : at + piece.length]
        self._length = end

    def reclaim(self) -> Buffer:
        return Buffer()

    def settle(self) -> list[Buffer]:
        self._send()
        self._line.settle()
        return self._nbd.settle() if "_nbd" in self.__dict__ else []

    def zero(self, extent: Extent) -> None:
        self._nbd.zero(extent)

    def trim(self, extent: Extent) -> None:
        self._nbd.trim(extent)

    def flush(self) -> None:
        """Flushes what was acknowledged, by either route: qemu-nbd's flush covers all of its connections."""
        self._nbd.flush()

    @cached_property
    def _nbd(self) -> NbdWriter:
        return self._connect()

    def _send(self) -> None:
        if self._length:
            self._line.send(self._packer.frame(self._start, self._gathered.view[: self._length]))
            self._length = 0
