"""Bytes that the service itself moves, through an export's own qemu-nbd, for a client at the end of a slow link.

As a client of the server it cannot bypass its sandbox, cache mode, exclusive claims or end.
"""

import ctypes
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from cloudmanager.core.errors import InvalidContent, TransferFailed, TransferUnavailable
from cloudmanager.core.model import Credentials
from cloudmanager.transfer.buffers import Buffer
from cloudmanager.transfer.extents import Extent
from cloudmanager.transfer.frames import Encoding, Frame
from cloudmanager.transfer.libnbd import Connection, LibnbdFailure, Lost, Missing, Timeouts
from cloudmanager.transfer.reading import NbdReader, digest

if TYPE_CHECKING:
    import zstandard

Result = TypeVar("Result")

_CONNECT_SECONDS = 5.0
"""All connection slots of the server may be taken; then the caller gets the error soon."""
_STALL_SECONDS = 60.0


@dataclass(frozen=True)
class LocalAddress:
    """Where this machine reaches a server."""

    uri: str
    credentials: Credentials | None
    certificates: None = None


class TransferStopped(Exception):
    """The transfer was cancelled."""


class Transfer:
    """A connection to an export's server, used by one thread at a time. Another may `stop` it."""

    def __init__(self, address: LocalAddress) -> None:
        """Raises TransferUnavailable."""
        self._is_stopped = threading.Event()
        self._turn = threading.Lock()
        self._decompressor: zstandard.ZstdDecompressor | None = None
        self.written_bytes = 0
        """That the server has acknowledged."""
        try:
            self._connection = Connection(address, Timeouts(_CONNECT_SECONDS, _STALL_SECONDS, self._check))
        except Missing as error:
            raise TransferUnavailable(f"{error} Use the NBD address.") from error
        except Lost as error:
            raise TransferUnavailable(
                "The export's server takes no further connection. Use the NBD address, or ask again when other clients "
                "have left.",
                retriable=True,
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends what another thread still does, and closes the connection."""
        self._is_stopped.set()
        with self._turn:
            self._connection.__exit__(kind, error, at)

    @property
    def size_bytes(self) -> int:
        return self._connection.size_bytes

    def write(self, frame: Frame) -> None:
        """Returns when the server has acknowledged it. Raises InvalidContent, TransferFailed, TransferStopped."""
        if frame.offset + frame.length > self.size_bytes:
            raise InvalidContent(
                f"A frame reaches from byte {frame.offset} to {frame.offset + frame.length}; the disk has "
                f"{self.size_bytes} bytes."
            )
        self._in_turn(lambda: self._write(frame.offset, self._plain(frame)))

    def digests(self, extent: Extent) -> bytes:
        """The checksums of the range's blocks. Raises TransferFailed, TransferStopped."""
        return self._in_turn(lambda: self._digests(extent))

    def _digests(self, extent: Extent) -> bytes:
        free: deque[Buffer] = deque()
        try:
            return digest(NbdReader(self._connection), extent, free, self._check)
        except LibnbdFailure as failure:
            raise TransferFailed(
                f"Bytes {extent.offset} to {extent.end - 1} cannot all be read: {failure.message}. The disk may have a "
                "bad sector there."
            ) from failure

    def _plain(self, frame: Frame) -> bytes:
        if frame.encoding is Encoding.RAW:
            return bytes(frame.body)
        if self._decompressor is None:
            self._decompressor = _decompressor()
        return _decompressed(frame, self._decompressor)

    def _write(self, offset: int, plain: bytes) -> None:
        address = ctypes.cast(ctypes.c_char_p(plain), ctypes.c_void_p).value or 0
        self._connection.wait(self._connection.start_write(address, len(plain), offset))
        self.written_bytes += len(plain)

    def _in_turn(self, work: Callable[[], Result]) -> Result:
        with self._turn:
            self._check()
            try:
                return work()
            except Lost as error:
                raise TransferFailed(
                    f"{error} The export may have ended, or its server is being replaced: look at the export.",
                    retriable=True,
                ) from error
            except LibnbdFailure as failure:
                raise TransferFailed(f"The export's server refused: {failure.message}.") from failure

    def _check(self) -> None:
        if self._is_stopped.is_set():
            raise TransferStopped


def _decompressor() -> "zstandard.ZstdDecompressor":
    """Raises TransferUnavailable."""
    try:
        import zstandard  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise TransferUnavailable("The service cannot read zstd: pip install 'cloudmanager[server]'.") from error
    return zstandard.ZstdDecompressor()


def _decompressed(frame: Frame, decompressor: "zstandard.ZstdDecompressor") -> bytes:
    """Exactly as much as the frame says: what it claims to become is looked at before it becomes anything.

    Raises InvalidContent.
    """
    import zstandard  # noqa: PLC0415 - an extra

    try:
        if zstandard.frame_content_size(frame.body) != frame.length:
            raise InvalidContent(f"A compressed frame does not say that it becomes {frame.length} bytes.")
        plain = decompressor.decompress(frame.body, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise InvalidContent(f"A frame is not what zstd makes: {error}.") from error
    if len(plain) != frame.length:
        raise InvalidContent(f"A compressed frame does not become {frame.length} bytes.")
    return plain
