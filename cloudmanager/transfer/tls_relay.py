"""TLS with certificates on behalf of libnbd, for servers that are known by an IPv6 address.

libnbd compares a server's certificate with the name that it connects to, and verifies nothing without one. Given an
IPv6 address as that name, it asks the server for it (SNI), which GnuTLS refuses. So the conversation with the server,
STARTTLS and the verification are ours, and libnbd gets a socket on which an NBD server without TLS seems to answer.
https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

import select
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cloudmanager.transfer import negotiation
from cloudmanager.transfer.endpoint import Endpoint

Answer = TypeVar("Answer")

_PART_BYTES = 256 * 1024
_LONGEST_BUFFER = 4 * _PART_BYTES


class TlsRelay:
    """A thread between a server and libnbd. It ends when either closes its end."""

    def __init__(self, endpoint: Endpoint, certificates: Path | None, connect_seconds: float) -> None:
        """`certificates` as QEMU calls the files; None: the server's must be of an authority of this machine."""
        self._endpoint = endpoint
        self._certificates = certificates
        self._connect_seconds = connect_seconds
        self._ours, self._theirs = socket.socketpair()
        self._negotiated: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="nbd-tls", daemon=True)
        self._thread.start()

    def connected(self, seconds: float) -> int | None:
        """The descriptor for libnbd, which closes it; None while the server has not answered. Raises OSError."""
        if not wait([self._negotiated], seconds).done:
            return None
        self._negotiated.result()
        return self._theirs.detach()

    def close(self) -> None:
        """When libnbd has closed its end, or never got it. What it has sent is still passed on."""
        self._theirs.close()

    def _run(self) -> None:
        with self._ours:
            try:
                server, greeting = self._negotiate()
            except Exception as error:
                self._negotiated.set_exception(error)
                return
            with server, suppress(OSError):
                self._negotiated.set_result(None)
                self._ours.sendall(greeting)
                negotiation.receiver(self._ours)(negotiation.CLIENT_FLAGS_BYTES)  # the server has them already
                _pass_on(self._ours, server)

    def _negotiate(self) -> tuple[ssl.SSLSocket, bytes]:
        """The encrypted connection, and how its server greeted. Raises OSError, also for a wrong certificate."""
        connection = self._endpoint.connect(self._connect_seconds)
        try:
            greeting = _start_tls(connection)
            context = _context(self._certificates)
            return context.wrap_socket(connection, server_hostname=self._endpoint.certified_host), greeting
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise OSError(f"its certificate is refused: {error.verify_message}") from error
        except BaseException:
            connection.close()
            raise


def _start_tls(connection: socket.socket) -> bytes:
    """Until the server waits for TLS. Returns how it greeted; raises OSError."""
    receive = negotiation.receiver(connection)
    greeting = receive(negotiation.GREETING_BYTES)
    try:
        flags = negotiation.server_flags(greeting)
        connection.sendall(negotiation.client_flags(flags) + negotiation.start_tls())
        reply = negotiation.read_reply(receive)
    except negotiation.ProtocolError as error:
        raise OSError(f"the server {error}") from error
    if not reply.is_acknowledged:
        raise OSError("the server refuses TLS")
    return greeting


def _context(certificates: Path | None) -> ssl.SSLContext:
    """Verifies the server's certificate, and that it is for the address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if certificates is None:
        context.load_default_certs()
        return context
    context.load_verify_locations(certificates / "ca-cert.pem")
    context.load_cert_chain(certificates / "client-cert.pem", certificates / "client-key.pem")
    revocations = certificates / "ca-crl.pem"
    if revocations.exists():
        context.load_verify_locations(revocations)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


@dataclass
class _Direction:
    """What was read from one end and is not written to the other yet."""

    source: socket.socket
    target: socket.socket
    waiting: bytearray = field(default_factory=bytearray)
    has_ended: bool = False

    @property
    def is_over(self) -> bool:
        return self.has_ended and not self.waiting

    @property
    def may_read(self) -> bool:
        return not self.has_ended and len(self.waiting) < _LONGEST_BUFFER

    def move(self) -> bool:
        """Whether anything could be done. Raises OSError when an end is broken."""
        return self._read() | self._write()

    def _read(self) -> bool:
        part = _tried(lambda: self.source.recv(_PART_BYTES)) if self.may_read else None
        if part is None:
            return False
        self.waiting += part
        self.has_ended = not part
        return True

    def _write(self) -> bool:
        count = _tried(lambda: self.target.send(bytes(self.waiting[:_PART_BYTES]))) if self.waiting else None
        del self.waiting[: count or 0]
        return count is not None


def _pass_on(plain: socket.socket, encrypted: ssl.SSLSocket) -> None:
    """Both ways, until one end is closed. One thread does it all: OpenSSL's connections are not for two."""
    plain.setblocking(False)
    encrypted.setblocking(False)
    directions = (_Direction(plain, encrypted), _Direction(encrypted, plain))
    while not any(direction.is_over for direction in directions):
        moved = [direction.move() for direction in directions]
        if not any(moved):
            _wait(directions)


def _wait(directions: Sequence[_Direction]) -> None:
    """For the first socket that can do something: what was tried just now could not be done."""
    poll = select.poll()
    for direction in directions:
        if direction.may_read:
            poll.register(direction.source, select.POLLIN | (_sends(directions, direction.source) and select.POLLOUT))
        elif _sends(directions, direction.source):
            poll.register(direction.source, select.POLLOUT)
    poll.poll()


def _sends(directions: Sequence[_Direction], end: socket.socket) -> bool:
    return any(direction.target is end and direction.waiting for direction in directions)


def _tried(attempt: Callable[[], Answer]) -> Answer | None:
    """None: not now."""
    try:
        return attempt()
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None
