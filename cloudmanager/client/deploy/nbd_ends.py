"""An NBD server's export as a source and as a target."""

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from cloudmanager.client import sector_size
from cloudmanager.client.address import NbdAddress, directory_of
from cloudmanager.client.deploy.errors import (
    ConnectionLost,
    MissingTool,
    SourceError,
    TargetError,
    TargetReadOnly,
    TargetTooSmall,
    UnreadableRange,
)
from cloudmanager.transfer import libnbd, reading
from cloudmanager.transfer.buffers import Buffer, zeros_address
from cloudmanager.transfer.extents import Extent, on_grains, pieces
from cloudmanager.transfer.libnbd import LONGEST_RANGE, LibnbdFailure, Timeouts


class NbdConnection(libnbd.Connection):
    """Raises ConnectionLost, MissingTool, InvalidSetup."""

    missing = MissingTool
    lost = ConnectionLost

    def certificates_for(self, address: libnbd.Address) -> Path | None:
        return directory_of(address)


class NbdConnections:
    """Connections to one server, for threads. An unused one is kept for the next thread: making one takes several round
    trips. No more than one, because servers count their clients.
    """

    def __init__(self, address: libnbd.Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._kept: NbdConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._keep(None)

    @contextmanager
    def one(self, timeouts: Timeouts) -> Iterator[NbdConnection]:
        """Raises ConnectionLost, MissingTool, InvalidSetup. Every request that is begun in the block must end in it."""
        connection = self._take()
        if connection is None:
            connection = NbdConnection(self._address, timeouts)
        connection.timeouts = timeouts
        try:
            yield connection
        except BaseException as error:
            connection.__exit__(type(error), error, None)
            self._keep(None)  # its server may be gone
            raise
        self._keep(connection)

    def _take(self) -> NbdConnection | None:
        with self._lock:
            taken, self._kept = self._kept, None
            return taken

    def _keep(self, connection: NbdConnection | None) -> None:
        """In place of the one that is kept, which ends."""
        with self._lock:
            ended, self._kept = self._kept, connection
        if ended is not None:
            ended.__exit__(None, None, None)


SEVERAL = 64
_MOST_UNDER_WAY = 64


class NbdSourceReader(reading.NbdReader):
    """Raises SourceError, ConnectionLost."""

    def __init__(self, connection: NbdConnection) -> None:
        super().__init__(connection)
        self._under_way: dict[int, Extent] = {}

    def extents(self, extent: Extent) -> list[Extent]:
        with _reading(extent):
            return super().extents(extent)

    def begin(self, buffer: Buffer, piece: Extent) -> None:
        with _reading(piece):
            super().begin(buffer, piece)
        self._under_way[buffer.read] = piece

    def finish(self, buffer: Buffer) -> None:
        with _reading(self._under_way.pop(buffer.read)):
            super().finish(buffer)


class NbdWriter:
    """Has several requests under way."""

    def __init__(self, connection: NbdConnection) -> None:
        self._connection = connection
        self._under_way: dict[int, Buffer | None] = {}
        self._written: deque[Buffer] = deque()

    def extents(self, extent: Extent) -> list[Extent]:
        with _writing():
            return on_grains(self._connection.extents(extent.offset, extent.length), extent.offset, extent.end)

    def begin(self, buffer: Buffer, at: int, piece: Extent) -> None:
        self._send(partial(self._connection.start_write, buffer.address + at, piece.length, piece.offset), buffer)
        buffer.writes += 1

    def reclaim(self) -> Buffer:
        while not self._written:
            self._complete()
        return self._written.popleft()

    def settle(self) -> list[Buffer]:
        while self._under_way:
            self._complete()
        buffers = list(self._written)
        self._written.clear()
        return buffers

    def zero(self, extent: Extent) -> None:
        if self._connection.can_zero:
            for part in pieces(extent, LONGEST_RANGE):
                self._send(partial(self._connection.start_zero, part.offset, part.length))
            return
        for piece in pieces(extent):
            self._send(partial(self._connection.start_write, zeros_address, piece.length, piece.offset))

    def trim(self, extent: Extent) -> None:
        if self._connection.can_trim:
            for part in pieces(extent, LONGEST_RANGE):
                self._send(partial(self._connection.start_trim, part.offset, part.length))

    def flush(self) -> None:
        self._written.extend(self.settle())
        with _writing():
            self._connection.flush()

    def _send(self, request: Callable[[], int], buffer: Buffer | None = None) -> None:
        while len(self._under_way) >= _MOST_UNDER_WAY:
            self._complete()
        with _writing():
            self._under_way[request()] = buffer

    def _complete(self) -> None:
        with _writing():
            buffer = self._under_way.pop(self._connection.wait_for_any())
        if buffer is None:
            return
        buffer.writes -= 1
        if not buffer.writes:
            self._written.append(buffer)


@dataclass(frozen=True)
class NbdSource:
    """A disk that somebody exports."""

    connections: NbdConnections
    size_bytes: int
    readers: int
    identity: str
    detects_changes: bool = False

    @classmethod
    @contextmanager
    def opened(cls, address: NbdAddress, timeouts: Timeouts, identity: str = "") -> Iterator["NbdSource"]:
        """Raises ConnectionLost."""
        with NbdConnections(address) as connections:
            with connections.one(timeouts) as first:
                size, several = first.size_bytes, first.has_several
            yield cls(connections, size, SEVERAL if several else 1, identity and f"{identity} {size}")

    @contextmanager
    def reader(self, timeouts: Timeouts) -> Iterator[NbdSourceReader]:
        with self.connections.one(timeouts) as connection:
            yield NbdSourceReader(connection)

    def check_unchanged(self) -> None:
        """Nobody tells."""


@dataclass(frozen=True)
class NbdTarget:
    """A disk that somebody exports writable."""

    address: NbdAddress
    connections: NbdConnections
    name: str
    size_bytes: int
    writers: int
    logical_sector_bytes: int | None

    @classmethod
    @contextmanager
    def opened(cls, address: NbdAddress, timeouts: Timeouts, name: str) -> Iterator["NbdTarget"]:
        """Raises ConnectionLost, TargetReadOnly."""
        with NbdConnections(address) as connections:
            with connections.one(timeouts) as first:
                if first.is_read_only:
                    raise TargetReadOnly(f"{name} is exported read-only. Ask for read-write access.")
                size, several = first.size_bytes, first.has_several
                sectors = address.logical_sector_bytes or _sectors(first.smallest_request_bytes)
            yield cls(address, connections, name, size, SEVERAL if several else 1, sectors)

    @property
    def likeness(self) -> str:
        return str(self.size_bytes)

    def reserve(self, size_bytes: int) -> None:
        if size_bytes > self.size_bytes:
            raise TargetTooSmall(f"{self.name} has {self.size_bytes} bytes; the image needs {size_bytes}.")

    @contextmanager
    def writer(self, timeouts: Timeouts) -> Iterator[NbdWriter]:
        with self.connections.one(timeouts) as connection:
            writer = NbdWriter(connection)
            yield writer
            writer.settle()

    @contextmanager
    def reader(self, timeouts: Timeouts) -> Iterator[NbdSourceReader]:
        with self.connections.one(timeouts) as connection:
            yield NbdSourceReader(connection)


def _sectors(smallest_request_bytes: int) -> int | None:
    """A server that takes no smaller requests has a disk with sectors of that size; one that does may have any."""
    return smallest_request_bytes if smallest_request_bytes == sector_size.LARGE else None


@contextmanager
def _reading(extent: Extent) -> Iterator[None]:
    try:
        yield
    except LibnbdFailure as failure:
        if failure.errno == errno.EIO:
            raise UnreadableRange.of(extent.offset, extent.length, os.strerror(errno.EIO)) from None
        raise SourceError(f"The server cannot read: {failure.message}.") from None


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except LibnbdFailure as failure:
        raise TargetError(f"The target cannot be written: {failure.message}.") from None
