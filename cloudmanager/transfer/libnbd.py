"""libnbd, the well-kept NBD client library, by its C interface.

Its Python package exists for the system's Python only and copies every byte once more; the C interface is stable
(https://libguestfs.org/libnbd.3.html) and reads and writes our own memory.
"""

import ctypes
import functools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Protocol, Self

from cloudmanager.transfer.endpoint import Endpoint
from cloudmanager.transfer.extents import Extent
from cloudmanager.transfer.tls_relay import TlsRelay

CONNECT_SECONDS = 20.0
STALL_SECONDS = 60.0
"""A server that has answered nothing for so long is taken for dead."""
FLUSH_SECONDS = 900.0
"""A flush waits for a slow disk to write all that the server has kept in memory."""
_LOOK_AROUND_MILLISECONDS = 250
_ALLOCATION = b"base:allocation"
_STATE_ZERO = 2
_ONE_PIECE = 1 << 2
"""LIBNBD_CMD_FLAG_DF"""
_STRICT_FLAGS = 1 << 1
"""LIBNBD_STRICT_FLAGS"""
_TLS_REQUIRED = 2
_SIZE_MINIMUM = 0
LONGEST_RANGE = 1 << 30
"""Of one request without data."""
_NOTHING = -1

_SOCKET_ADDRESS = struct.Struct("=H2B4x16sI")

_Pointer = ctypes.c_void_p
_U64 = ctypes.c_uint64
_I64 = ctypes.c_int64
_U32 = ctypes.c_uint32
_Size = ctypes.c_size_t
_Int = ctypes.c_int
_Text = ctypes.c_char_p


class _Callback(ctypes.Structure):
    """nbd_completion_callback and nbd_extent_callback have the same layout."""

    _fields_ = (("callback", _Pointer), ("user_data", _Pointer), ("free", _Pointer))


_EXTENTS = ctypes.CFUNCTYPE(_Int, _Pointer, _Text, _U64, ctypes.POINTER(_U32), _Size, ctypes.POINTER(_Int))
_NO_CALLBACK = _Callback(None, None, None)

_PROTOTYPES: dict[str, tuple[object, ...]] = {
    # name: (result, arguments…)
    "nbd_create": (_Pointer,),
    "nbd_close": (None, _Pointer),
    "nbd_get_error": (_Text,),
    "nbd_get_errno": (_Int,),
    "nbd_set_tls": (_Int, _Pointer, _Int),
    "nbd_set_tls_certificates": (_Int, _Pointer, _Text),
    "nbd_set_tls_username": (_Int, _Pointer, _Text),
    "nbd_set_tls_psk_file": (_Int, _Pointer, _Text),
    "nbd_set_pread_initialize": (_Int, _Pointer, ctypes.c_bool),
    "nbd_add_meta_context": (_Int, _Pointer, _Text),
    "nbd_can_meta_context": (_Int, _Pointer, _Text),
    "nbd_can_multi_conn": (_Int, _Pointer),
    "nbd_can_zero": (_Int, _Pointer),
    "nbd_can_trim": (_Int, _Pointer),
    "nbd_can_df": (_Int, _Pointer),
    "nbd_get_strict_mode": (_U32, _Pointer),
    "nbd_set_strict_mode": (_Int, _Pointer, _U32),
    "nbd_can_flush": (_Int, _Pointer),
    "nbd_is_read_only": (_Int, _Pointer),
    "nbd_get_size": (_I64, _Pointer),
    "nbd_get_block_size": (_I64, _Pointer, _Int),
    "nbd_poll": (_Int, _Pointer, _Int),
    "nbd_set_export_name": (_Int, _Pointer, _Text),
    "nbd_aio_connect_uri": (_Int, _Pointer, _Text),
    "nbd_aio_connect": (_Int, _Pointer, _Text, _U32),
    "nbd_aio_connect_socket": (_Int, _Pointer, _Int),
    "nbd_aio_is_ready": (_Int, _Pointer),
    "nbd_aio_is_connecting": (_Int, _Pointer),
    "nbd_aio_is_closed": (_Int, _Pointer),
    "nbd_aio_is_dead": (_Int, _Pointer),
    "nbd_aio_pread": (_I64, _Pointer, _Pointer, _Size, _U64, _Callback, _U32),
    "nbd_aio_pwrite": (_I64, _Pointer, _Pointer, _Size, _U64, _Callback, _U32),
    "nbd_aio_zero": (_I64, _Pointer, _U64, _U64, _Callback, _U32),
    "nbd_aio_trim": (_I64, _Pointer, _U64, _U64, _Callback, _U32),
    "nbd_aio_flush": (_I64, _Pointer, _Callback, _U32),
    "nbd_aio_block_status": (_I64, _Pointer, _U64, _U64, _Callback, _Callback, _U32),
    "nbd_aio_command_completed": (_Int, _Pointer, _U64),
    "nbd_aio_peek_command_completed": (_I64, _Pointer),
    "nbd_aio_disconnect": (_Int, _Pointer, _U32),
}


class Key(Protocol):
    """A TLS pre-shared key."""

    @property
    def username(self) -> str: ...

    @property
    def key(self) -> str:
        """In hexadecimal."""


class Address(Protocol):
    """Where a server is, and what it takes to connect."""

    @property
    def uri(self) -> str: ...

    @property
    def credentials(self) -> Key | None: ...

    @property
    def certificates(self) -> Path | None:
        """A directory of a client's certificates."""


class Missing(Exception):
    """The library is not installed; the message says which package has it."""


class Lost(Exception):
    """The server went away, or stopped answering."""


@functools.cache
def _library() -> ctypes.CDLL:
    """Raises OSError."""
    library = ctypes.CDLL("libnbd.so.0")
    for name, (result, *arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class LibnbdFailure(Exception):
    """A request was answered with an error; the connection still works."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.message = message
        self.errno = number


@dataclass(frozen=True)
class Timeouts:
    """How long a silent server is waited for, and how a caller who has had enough is heard."""

    connect_seconds: float = CONNECT_SECONDS
    stall_seconds: float = STALL_SECONDS
    check: Callable[[], None] = field(default=lambda: None)
    """Called a few times in each second of waiting; what it raises ends the waiting."""


class Connection:
    """One connection to an NBD server, for one thread. Requests run beside each other until they are waited for."""

    missing: ClassVar[type[Exception]] = Missing
    lost: ClassVar[type[Exception]] = Lost
    """What is raised: each end has errors of its own."""

    def __init__(self, address: Address, timeouts: Timeouts) -> None:
        """Raises `lost`, `missing`, and what `timeouts.check` raises."""
        try:
            self._library = _library()
        except OSError:
            raise self.missing("libnbd is not installed: the package libnbd0, which libnbd-bin brings.") from None
        self.timeouts = timeouts
        self._handle: int | None = self._library.nbd_create()
        self._ending = ExitStack()
        """What ends with the connection."""
        self._owners: dict[int, object] = {}
        """Of the memory into which is read, by the cookies of the requests."""
        try:
            self._connect(address)
        except BaseException:
            self._close()
            raise
        self.size_bytes: int = self._call("nbd_get_size")
        self.smallest_request_bytes: int = self._call("nbd_get_block_size", _SIZE_MINIMUM)
        """That the server takes; 0 where it does not say."""
        self.is_read_only = bool(self._call("nbd_is_read_only"))
        self.has_several = bool(self._call("nbd_can_multi_conn"))
        """Whether further connections see what this one has written, and its flush covers theirs."""
        self._read_flags = _ONE_PIECE if self._call("nbd_can_df") else 0
        self._knows_extents = bool(self._call("nbd_can_meta_context", _ALLOCATION))
        self.can_zero = bool(self._call("nbd_can_zero"))
        self.can_trim = bool(self._call("nbd_can_trim"))
        self._can_flush = bool(self._call("nbd_can_flush"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None and self._handle is not None:
            self._library.nbd_aio_disconnect(self._handle, 0)
        self._close()

    def certificates_for(self, address: Address) -> Path | None:
        """The directory, if it is needed."""
        return address.certificates

    def start_read(self, address: int, length: int, offset: int, owner: object = None) -> int:
        """The cookie to wait for; the memory belongs to libnbd until then. Its `owner` is kept for so long, also when
        nobody waits because another request has failed: the answer comes all the same.

        The answer is asked for in one piece: qemu-nbd 7.2 drops the connection when it cannot read what it was about to
        send in several, but answers EIO to this.
        """
        cookie = self._call("nbd_aio_pread", address, length, offset, _NO_CALLBACK, self._read_flags)
        self._owners[cookie] = owner
        return cookie

    def start_write(self, address: int, length: int, offset: int) -> int:
        return self._call("nbd_aio_pwrite", address, length, offset, _NO_CALLBACK, 0)

    def start_zero(self, offset: int, length: int) -> int:
        """The server may punch holes for it. Only where `can_zero`."""
        return self._call("nbd_aio_zero", length, offset, _NO_CALLBACK, 0)

    def start_trim(self, offset: int, length: int) -> int:
        """A hint: what is read there afterwards is not defined. Only where `can_trim`."""
        return self._call("nbd_aio_trim", length, offset, _NO_CALLBACK, 0)

    def flush(self) -> None:
        """Everything that was acknowledged survives a power cut afterwards."""
        if self._can_flush:
            self.wait(self._call("nbd_aio_flush", _NO_CALLBACK, 0), FLUSH_SECONDS)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """What is known of a range, in order; data where nothing is."""
        end = offset + length
        while offset < end:
            for extent in self._some_extents(offset, min(end - offset, LONGEST_RANGE)):
                yield extent.part(offset, end)
                offset = min(extent.end, end)

    def wait(self, cookie: int, seconds: float | None = None) -> None:
        """Until that request is answered. Raises LibnbdFailure, `lost`."""
        deadline = time.monotonic() + (seconds or self.timeouts.stall_seconds)
        try:
            while not self._call("nbd_aio_command_completed", cookie):
                self._poll(deadline)
        except LibnbdFailure:
            self._owners.pop(cookie, None)
            raise
        self._owners.pop(cookie, None)

    def wait_for_any(self) -> int:
        """The cookie of a request that was answered, whichever is first. Raises LibnbdFailure, `lost`."""
        deadline = time.monotonic() + self.timeouts.stall_seconds
        while (cookie := self._call("nbd_aio_peek_command_completed")) == 0:
            self._poll(deadline)
        self._call("nbd_aio_command_completed", cookie)
        return cookie

    def _some_extents(self, offset: int, length: int) -> list[Extent]:
        if not self._knows_extents:
            return [Extent(offset, length)]
        found: list[Extent] = []
        receive = _EXTENTS(partial(_receive, found))
        callback = _Callback(ctypes.cast(receive, _Pointer), None, None)
        self.wait(self._call("nbd_aio_block_status", length, offset, callback, _NO_CALLBACK, 0))
        return found or [Extent(offset, length)]

    def _connect(self, address: Address) -> None:
        deadline = time.monotonic() + self.timeouts.connect_seconds
        self._call("nbd_set_pread_initialize", False)
        strict: int = self._library.nbd_get_strict_mode(self._handle)
        self._call("nbd_set_strict_mode", strict & ~_STRICT_FLAGS)  # or it refuses the flag of a plain read
        self._call("nbd_add_meta_context", _ALLOCATION)
        with _key_file(address.credentials) as key_file:
            if address.credentials is not None:
                self._call("nbd_set_tls", _TLS_REQUIRED)
                self._call("nbd_set_tls_username", address.credentials.username.encode())
                self._call("nbd_set_tls_psk_file", key_file.encode())
            try:
                self._start(address, deadline)
                while not self._library.nbd_aio_is_ready(self._handle):
                    self._poll(deadline)
            except (LibnbdFailure, OSError, ValueError) as error:
                message = error.message if isinstance(error, LibnbdFailure) else str(error)
                raise self.lost(f"The NBD server cannot be reached: {message}.") from None

    def _start(self, address: Address, deadline: float) -> None:
        """Begins to connect. An IPv6 address goes another way than by its URI: libnbd would ask a TLS server for it as
        for a name, and GnuTLS, at the server, refuses a name with colons (tried with libnbd 1.14 and GnuTLS 3.7).
        """
        certificates = self.certificates_for(address)
        endpoint = Endpoint.parse(address.uri)
        if not endpoint.is_ipv6_literal:
            if certificates is not None:  # without any, libnbd looks for some in places of its own
                self._call("nbd_set_tls_certificates", str(certificates).encode())
            self._call("nbd_aio_connect_uri", address.uri.encode())
            return
        self._call("nbd_set_export_name", endpoint.export_name.encode())
        if endpoint.is_tls and address.credentials is None:
            self._start_through(TlsRelay(endpoint, certificates, self.timeouts.connect_seconds), deadline)
        else:
            socket_address = _ipv6_socket_address(endpoint)
            self._call("nbd_aio_connect", socket_address, len(socket_address))

    def _start_through(self, relay: TlsRelay, deadline: float) -> None:
        """The certificate is compared with the address by us: libnbd compares it with nothing but a host's name."""
        self._ending.callback(relay.close)
        while (plain := relay.connected(_LOOK_AROUND_MILLISECONDS / 1000)) is None:
            self.timeouts.check()
            if time.monotonic() > deadline:
                raise self.lost("The NBD server stopped answering.")
        self._call("nbd_aio_connect_socket", plain)

    def _poll(self, deadline: float) -> None:
        self.timeouts.check()
        if time.monotonic() > deadline:
            raise self.lost("The NBD server stopped answering.")
        self._call("nbd_poll", _LOOK_AROUND_MILLISECONDS)

    def _call(self, name: str, *arguments: object) -> int:
        result: int = getattr(self._library, name)(self._handle, *arguments)
        if result == _NOTHING:
            raise self._error()
        return result

    def _error(self) -> Exception:
        message = (self._library.nbd_get_error() or b"an unknown error").decode(errors="replace")
        number: int = self._library.nbd_get_errno()
        if self._library.nbd_aio_is_dead(self._handle) or self._library.nbd_aio_is_closed(self._handle):
            return self.lost(f"The connection to the NBD server ended: {message}.")
        return LibnbdFailure(message, number)

    def _close(self) -> None:
        if self._handle is not None:
            self._library.nbd_close(self._handle)
            self._handle = None
        self._ending.close()


def _receive(
    found: list[Extent], _user: int, context: bytes, offset: int, entries: Sequence[int], count: int, _error: object
) -> int:
    """What libnbd calls with the pairs of length and state of a range."""
    if context == _ALLOCATION:
        for index in range(0, count, 2):
            found.append(Extent(offset, entries[index], bool(entries[index + 1] & _STATE_ZERO)))
            offset = found[-1].end
    return 0


def _ipv6_socket_address(endpoint: Endpoint) -> bytes:
    """A sockaddr_in6 (ipv6(7)). Raises OSError for a zone that this machine does not have."""
    address, _, zone = endpoint.host.partition("%")
    scope = 0 if not zone else int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    packed = socket.inet_pton(socket.AF_INET6, address)
    return _SOCKET_ADDRESS.pack(socket.AF_INET6, *endpoint.port.to_bytes(2), packed, scope)


@contextmanager
def _key_file(credentials: Key | None) -> Iterator[str]:
    """libnbd wants a file; this one is in memory, and nobody else's."""
    descriptor = os.memfd_create("nbd-key")
    try:
        if credentials is not None:
            os.write(descriptor, f"{credentials.username}:{credentials.key}\n".encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
