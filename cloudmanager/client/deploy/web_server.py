"""The resource at one URL: inspected, then read by ranges or as a whole, with new requests after a broken response."""

import base64
import hashlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import quote, unquote, urljoin, urlsplit

from cloudmanager.client import network
from cloudmanager.client.deploy.errors import SourceChanged, SourceError, UnsupportedSource
from cloudmanager.client.deploy.web_guard import AddressGuard

HEAD_BYTES = 64 * 1024
_TIMEOUT_SECONDS = 60.0
_MOST_REDIRECTIONS = 10
_REDIRECTIONS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers that another attempt may not get."""
_EXPIRED = (401, 403, 404, 410)
"""What the end of a redirection answers when the signature in it is too old."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 5.0
_LOOK_AROUND_SECONDS = 0.25
_KEPT_CONNECTIONS = 8
_KNOWN_ENCODINGS = ("", "identity", "gzip", "x-gzip")
"""Of a body. What gzip has made is known by its bytes, as a file's would be."""


@dataclass(frozen=True)
class Resource:
    """What the server says of it, and its first bytes."""

    length: int | None
    """None: it does not say."""
    version: str
    """Its ETag and when it was changed; empty if the server says neither."""
    etag: str
    """A strong one, which a range can be asked for by."""
    has_ranges: bool
    """Of a version, so that all ranges are known to be of the same bytes."""
    head: bytes


class ResponseBroken(Exception):
    """There was no answer, or not all of it; another attempt may get it."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Busy(ResponseBroken):
    """The server asks for a pause before the next request."""


class WebServer:
    """For threads. Raises SourceError and its kinds; no error shows a query or a password."""

    def __init__(self, url: str, check: Callable[[], None], retry_seconds: float) -> None:
        """`check` is called while it waits, and ends that by what it raises. Raises SourceError."""
        self.name = network.without_secrets(url)
        self._url = self._final = _checked(url)
        """`_final` is where redirections ended."""
        self._check = check
        self._retry_seconds = retry_seconds
        self._guard = AddressGuard(url)
        self._lock = threading.Lock()
        self._idle: list[tuple[str, http.client.HTTPConnection]] = []
        self._sockets: dict[http.client.HTTPConnection, socket.socket] = {}
        """Of those that are open: a connection forgets its own once the last answer has begun."""
        self._ended = threading.Event()

    def look(self) -> Resource:
        """Asks for the first bytes by GET: HEAD is often not allowed where reading is."""
        attempts = Attempts(self)
        while True:
            try:
                return self._look()
            except Busy as error:
                attempts.failed(error)
            except ResponseBroken as error:
                raise self._unreadable(error) from error

    def check_unchanged(self, resource: Resource) -> None:
        """Raises SourceChanged."""
        attempts = Attempts(self)
        while True:
            try:
                now = self._look()
                break
            except ResponseBroken as error:
                attempts.failed(error)
        if (now.version, now.length) != (resource.version, resource.length):
            raise self.changed()

    def changed(self) -> SourceChanged:
        return SourceChanged(
            f"{self.name} was changed while it was read, so the target holds a mixture. Deploy it again."
        )

    def get(self, headers: dict[str, str]) -> "WebResponse":
        """The answer at the end of all redirections, of the kind 2xx. Raises ResponseBroken."""
        url = self._final
        for _ in range(_MOST_REDIRECTIONS):
            answer = self._ask(url, headers)
            status, location = answer.response.status, answer.response.headers.get("Location")
            if status in _REDIRECTIONS and location:
                answer.close()
                url = self._redirected(url, location)
            elif status in _EXPIRED and url == self._final != self._url:
                answer.close()
                url = self._final = self._url
            else:
                try:
                    self._refuse(answer.response)
                except BaseException:
                    answer.close()
                    raise
                self._final = url
                return answer
        raise SourceError(f"{self.name} leads from one URL to the next, {_MOST_REDIRECTIONS} times and more.")

    def wait(self, seconds: float, error: ResponseBroken) -> None:
        """Raises what `check` raises, and SourceError when it was ended meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._check()
            if self._ended.wait(min(left, _LOOK_AROUND_SECONDS)):
                self._check()
                raise self._unreadable(error) from error

    def give_up(self, lost_at: float, error: ResponseBroken) -> None:
        """Raises SourceError when nothing has succeeded for too long."""
        if time.monotonic() - lost_at >= self._retry_seconds:
            raise self._unreadable(error) from error

    def end(self) -> None:
        """Nobody waits for it any longer."""
        self._ended.set()
        with self._lock:
            for each in self._sockets.values():
                with suppress(OSError):  # of a TLS socket, too, only the connection
                    socket.socket.shutdown(each, socket.SHUT_RDWR)

    def close(self) -> None:
        self.end()
        for _, connection in self._idle:
            self.drop(connection)
        self._idle.clear()

    def keep(self, origin: str, connection: http.client.HTTPConnection) -> None:
        """For the next who asks."""
        with self._lock:
            if connection.sock is not None and len(self._idle) < _KEPT_CONNECTIONS and not self._ended.is_set():
                self._idle.append((origin, connection))
                return
        self.drop(connection)

    def drop(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._sockets.pop(connection, None)
        connection.close()

    def _look(self) -> Resource:
        answer = self.get({"Range": f"bytes=0-{HEAD_BYTES - 1}"})
        try:
            return self._seen(answer.response)
        finally:
            answer.close()

    def _seen(self, response: http.client.HTTPResponse) -> Resource:
        start, total = content_range(response)
        if response.status == 206 and start != 0:
            raise SourceError(f"{self.name} sends another range than it was asked for.")
        header = response.headers.get("Content-Length", "")
        length = total if response.status == 206 else _number(header)
        version = version_of(response)
        has_ranges = response.status == 206 and total is not None and bool(version)
        etag = response.headers.get("ETag", "")
        with reading():
            head = response.read(HEAD_BYTES)
        return Resource(length, version, etag if etag.startswith('"') else "", has_ranges, head)

    def _ask(self, url: str, headers: dict[str, str]) -> "WebResponse":
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = {"User-Agent": "cloudmanager-client", "Accept": "*/*", "Accept-Encoding": "identity", **headers}
        if _origin(url) == _origin(self._url):
            sent |= _authorization(self._url)
        kept = self._kept(_origin(url))
        if kept is not None:
            with suppress(ResponseBroken):  # it was closed meanwhile
                return self._answer(kept, url, path, sent)
        return self._answer(self._connection(url), url, path, sent)

    def _answer(
        self, connection: http.client.HTTPConnection, url: str, path: str, headers: dict[str, str]
    ) -> "WebResponse":
        try:
            with reading():
                if connection.sock is None:
                    self._connect(connection)
                self._refuse_when_ended()
                connection.request("GET", path, headers=headers)
                return WebResponse(self, _origin(url), connection, connection.getresponse())
        except BaseException:
            self.drop(connection)
            raise

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        connection.connect()
        made: socket.socket = connection.sock
        with self._lock:
            self._sockets[connection] = made

    def _refuse_when_ended(self) -> None:
        if self._ended.is_set():
            raise ResponseBroken("it was ended")

    def _connection(self, url: str) -> http.client.HTTPConnection:
        if network.proxy_for(url) is None:
            return network.connection(url, _TIMEOUT_SECONDS, self._guard.dial)
        if _origin(url) != _origin(self._url):
            self._guard.check(url)
        return network.connection(url, _TIMEOUT_SECONDS)

    def _kept(self, origin: str) -> http.client.HTTPConnection | None:
        with self._lock:
            for at, (its_origin, connection) in enumerate(self._idle):
                if its_origin == origin:
                    del self._idle[at]
                    return connection
        return None

    def _redirected(self, url: str, location: str) -> str:
        try:
            return _checked(urljoin(url, location))
        except (ValueError, SourceError):
            raise UnsupportedSource(f"{self.name} leads to what is no http or https URL.") from None

    def _refuse(self, response: http.client.HTTPResponse) -> None:
        """Unless it holds content."""
        status, headers = response.status, response.headers
        if status in _PASSING:
            asked = headers.get("Retry-After", "")
            raise Busy(f"it answered {status}", float(_number(asked) or 0))
        if status == 416 and headers.get("Content-Range", "").strip() == "bytes */0":
            raise SourceError(f"{self.name} is empty. Check that whatever wrote it has finished.")
        if status not in (200, 206):
            raise SourceError(f"{self.name} answered {status}.")
        if not headers.get("Content-Length", "0").strip().isdecimal():
            raise SourceError(f"{self.name} says a length that is no number: nobody knows where its answer ends.")
        encoding = headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _KNOWN_ENCODINGS:
            raise UnsupportedSource(f"{self.name} sends the image in an encoding that nobody asked for.")

    def _unreadable(self, error: ResponseBroken) -> SourceError:
        proxy = network.proxy_for(self._url)
        through = f" through the proxy {proxy.name}" if proxy else ""
        return SourceError(f"{self.name} cannot be read{through}: {error}.")


@dataclass(frozen=True)
class WebResponse:
    """Its body is still to be read."""

    server: WebServer
    origin: str
    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse

    def close(self) -> None:
        """The connection serves again if nothing is left to be read."""
        if self.response.length == 0:
            self.response.close()
        if self.response.isclosed() and not self.response.will_close:
            self.server.keep(self.origin, self.connection)
        else:
            self.drop()

    def drop(self) -> None:
        """What is left of it is not read."""
        self.response.close()  # it holds the socket, too
        self.server.drop(self.connection)


class Attempts:
    """How long to go on after failures in a row."""

    def __init__(self, server: WebServer) -> None:
        self._server = server
        self.succeeded()

    def succeeded(self) -> None:
        self._lost_at: float | None = None
        self._pause = _FIRST_PAUSE_SECONDS

    def failed(self, error: ResponseBroken) -> None:
        """Waits. Raises SourceError when it was too long, and what ends the waiting."""
        self._lost_at = self._lost_at or time.monotonic()
        self._server.give_up(self._lost_at, error)
        self._server.wait(max(self._pause, min(error.retry_after, _LONGEST_PAUSE_SECONDS)), error)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)


class Body:
    """The resource's bytes from an offset on, in order, over as many answers as that takes. For one thread.

    Where there are no ranges, everything is read again from the start, and what had been read has to be there again.
    """

    def __init__(self, server: WebServer, resource: Resource, start: int = 0, end: int | None = None) -> None:
        """`start` is 0 where there are no ranges."""
        self._server = server
        self._resource = resource
        self._end = resource.length if end is None else end
        self._digest = None if resource.has_ranges else hashlib.sha256()
        self._attempts = Attempts(server)
        self._answer: WebResponse | None = None
        self.position = start

    def fill(self, view: memoryview) -> int:
        """As many bytes as fit, fewer at the end. Raises SourceError."""
        done = 0
        while done < len(view) and self.position != self._end:
            try:
                count = self._read(view[done:])
            except ResponseBroken as error:
                self.close()
                self._attempts.failed(error)
                continue
            if not count:
                self._end = self.position
            done, self.position = done + count, self.position + count
            self._attempts.succeeded()
        if self.position == self._end:
            self.close()
        return done

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _read(self, view: memoryview) -> int:
        """Raises ResponseBroken."""
        if self._answer is None:
            self._answer = self._ask()
        count = self._received(self._answer, view if self._end is None else view[: self._end - self.position])
        if self._digest is not None:
            self._digest.update(view[:count])
        return count

    def _received(self, answer: WebResponse, view: memoryview) -> int:
        """0 at the end, where the server did not say before how long it is."""
        with reading():
            count = answer.response.readinto(view)
        if not count and (self._end is not None or answer.response.length):
            raise ResponseBroken("the connection was closed before all had come")
        return count

    def _ask(self) -> WebResponse:
        headers = {}
        if self._resource.has_ranges:
            headers["Range"] = f"bytes={self.position}-{'' if self._end is None else self._end - 1}"
            if self._resource.etag:
                headers["If-Range"] = self._resource.etag
        answer = self._server.get(headers)
        try:
            self._advance(answer)
        except BaseException:
            answer.drop()
            raise
        return answer

    def _advance(self, answer: WebResponse) -> None:
        """To the position. Raises SourceChanged if these are other bytes."""
        start, total = content_range(answer.response)
        if version_of(answer.response) != self._resource.version:
            raise self._server.changed()
        if answer.response.status == 206:
            if (start, total) != (self.position, self._resource.length):
                raise self._server.changed()
            return
        seen = hashlib.sha256()
        scratch = memoryview(bytearray(HEAD_BYTES))
        left = self.position
        while left:
            count = self._received(answer, scratch[: min(left, len(scratch))])
            if not count:
                raise self._server.changed()
            seen.update(scratch[:count])
            left -= count
        if self._digest is not None and seen.digest() != self._digest.digest():
            raise self._server.changed()


@contextmanager
def reading() -> Iterator[None]:
    """Raises ResponseBroken, or SourceError for what another attempt would not change, with our own message."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise SourceError(f"The server's certificate is not trusted: {error.verify_message}.") from error
    except http.client.RemoteDisconnected as error:
        raise ResponseBroken("it closed the connection") from error
    except TimeoutError as error:
        raise ResponseBroken("it stopped answering") from error
    except OSError as error:
        raise ResponseBroken(error.strerror or type(error).__name__) from error
    except http.client.IncompleteRead as error:
        raise ResponseBroken("the connection was closed before all had come") from error
    except (http.client.HTTPException, ValueError) as error:
        raise ResponseBroken(f"it answered what is no HTTP ({type(error).__name__})") from None


def content_range(response: http.client.HTTPResponse) -> tuple[int | None, int | None]:
    """Where the body begins, and how long the whole is; None for what is not said (RFC 9110, 14.4)."""
    unit, _, header = response.headers.get("Content-Range", "").partition(" ")
    extent, _, total = header.partition("/")
    start = extent.partition("-")[0].strip()
    if unit.strip().lower() != "bytes":
        return None, None
    return _number(start), _number(total)


def _number(text: str) -> int | None:
    """Of no more digits than a disk's size has."""
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) < 20 else None


def version_of(response: http.client.HTTPResponse) -> str:
    header = (response.headers.get("ETag"), response.headers.get("Last-Modified"))
    return " ".join(each for each in header if each)


def _checked(url: str) -> str:
    """In ASCII. Raises SourceError for what would end up in a message of the HTTP library."""
    url = quote(url, safe="".join(map(chr, range(0x21, 0x7F)))) if url.isprintable() else url
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_usable = False
    if not is_usable or not all("!" <= char <= "~" for char in url):
        raise SourceError(f"{network.without_secrets(url)!r} is no http or https URL that can be asked for.")
    return url.partition("#")[0]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _authorization(url: str) -> dict[str, str]:
    """Of a URL with a user in it."""
    parts = urlsplit(url)
    if parts.username is None:
        return {}
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
