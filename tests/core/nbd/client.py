"""An NBD client that does one thing at a time, so that a test decides when."""

from __future__ import annotations

import errno
import os
import socket
import struct
from types import TracebackType
from typing import Self

READ, WRITE, DISCONNECT, FLUSH, TRIM = 0, 1, 2, 3, 4


class Client:
    """A connection to an export in the clear. A request that the server refuses raises OSError with its errno."""

    def __init__(self, port: int, name: str, host: str = "127.0.0.1", timeout: float = 20) -> None:
        self.socket = socket.create_connection((host, port), timeout)
        self._name = name

    @classmethod
    def greeted(cls, port: int, name: str, host: str = "127.0.0.1") -> Self:
        client = cls(port, name, host)
        try:
            client.go()
        except BaseException:
            client.close()
            raise
        return client

    def go(self) -> None:
        magic, option_magic, _ = struct.unpack(">8s8sH", self._receive(18))
        assert (magic, option_magic) == (b"NBDMAGIC", b"IHAVEOPT")
        payload = struct.pack(">I", len(self._name)) + self._name.encode() + struct.pack(">H", 0)
        self.socket.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 7, len(payload)) + payload)
        kind = 0
        while kind != 1:
            _, _, kind, length = struct.unpack(">QIII", self._receive(20))
            data = self._receive(length)
            if kind & 1 << 31:
                raise ConnectionError(f"{kind:#x} {data!r}")
            if kind == 3 and data[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", data[2:12])

    def read(self, offset: int, length: int) -> bytes:
        self._request(READ, offset, length)
        self._answer()
        return self._receive(length)

    def write(self, offset: int, data: bytes) -> None:
        self._request(WRITE, offset, len(data), data)
        self._answer()

    def trim(self, offset: int, length: int) -> None:
        self._request(TRIM, offset, length)
        self._answer()

    def flush(self) -> None:
        self._request(FLUSH, 0, 0)
        self._answer()

    def is_cut(self) -> bool:
        """Waits for the server to hang up."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, command: int, offset: int, length: int, data: bytes = b"") -> None:
        self.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, 1, offset, length) + data)

    def _answer(self) -> None:
        magic, error, _ = struct.unpack(">IIQ", self._receive(16))
        assert magic == 0x67446698
        if error:
            raise OSError(error, os.strerror(error))

    def _receive(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            part = self.socket.recv(size - len(received))
            if not part:
                raise ConnectionResetError(errno.ECONNRESET, "the server hung up")
            received += part
        return received
