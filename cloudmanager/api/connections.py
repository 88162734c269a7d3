"""The connections of HTTP clients: bounded in number, and each in the time that it may take to send a request.

uvicorn bounds neither: a few hundred connections that send half a request would keep everybody else from the service.
"""

import asyncio
import logging
import resource
import time
from enum import Enum, auto
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_SECONDS = 10.0
"""From the first byte, or the connection's beginning, to the end of a request's headers."""
BODY_SECONDS = 20.0
"""From there to the end of a body of ordinary size."""
STALL_SECONDS = 60.0
"""How long a body of any size, as a deployment sends it, or the reader of an answer may make no progress."""
CLOSING_SECONDS = 5.0
"""How long a connection that is closed may take to receive what was written to it."""
MOST = 1024
STRANGERS_SHARE = 4
"""A quarter of the connections may be those of which nobody knows yet that they may call."""
_FILES_SHARE = 4
"""Of the files that the service may open: exports need the others."""
_SILENT_SECONDS = 60.0
log = logging.getLogger(__name__)


class _Phase(Enum):
    HEADERS = auto()
    BODY = auto()
    LONG_BODY = auto()
    """For a request without a bound on its duration, as long as it keeps sending."""
    ANSWER = auto()
    """It has sent its request, and may wait."""
    IDLE = auto()
    """Between two requests: uvicorn's own limit holds."""


_SECONDS = {_Phase.HEADERS: HEADERS_SECONDS, _Phase.BODY: BODY_SECONDS, _Phase.LONG_BODY: STALL_SECONDS}


def most_connections() -> int:
    """Fewer where the service may open few files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(8, min(MOST, soft // _FILES_SHARE))


class HttpConnections:
    """Those that are open. A new one that is too many takes the place of the least useful one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_strangers = max(2, most // STRANGERS_SHARE)
        self._open: dict[HttpConnection, None] = {}
        self._reported_at = -_SILENT_SECONDS

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, new: "HttpConnection") -> bool:
        """False: all the others are in use by those who may call, and the new one is to be closed."""
        strangers = [each for each in self._open if not each.is_known]
        if len(strangers) < self._most_strangers and len(self._open) < self._most:
            self._open[new] = None
            return True
        self._tell()
        victim = _least_useful(strangers) or _longest_idle(self._open)
        if victim is None:
            return False
        self.leave(victim)
        victim.transport.abort()
        self._open[new] = None
        return True

    def leave(self, connection: "HttpConnection") -> None:
        self._open.pop(connection, None)

    def _tell(self) -> None:
        if time.monotonic() - self._reported_at >= _SILENT_SECONDS:
            self._reported_at = time.monotonic()
            log.warning("too many connections: those that are idle, or have sent no valid request, are closed")


def _least_useful(strangers: "list[HttpConnection]") -> "HttpConnection | None":
    """The oldest that is not being answered: a real client sends its request at once and is authenticated then."""
    return next((each for each in strangers if not each.is_answered), strangers[0] if strangers else None)


def _longest_idle(connections: "dict[HttpConnection, None]") -> "HttpConnection | None":
    idle = [each for each in connections if each.idle_since is not None]
    return min(idle, key=lambda each: each.idle_since or 0.0, default=None)


class HttpConnection(H11Protocol):
    """One of them."""

    others: HttpConnections

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.app_state = {**self.app_state, "connection": self}
        self.is_known = False
        """A request of it was let in."""
        self.has_long_body = False
        """The request that it sends may have a body of any length."""
        self.idle_since: float | None = None
        self._phase = _Phase.HEADERS
        self._timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None

    @property
    def is_answered(self) -> bool:
        return self._phase is _Phase.ANSWER

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        if self.others.enter(self):
            self._restart()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.others.leave(self)
        for timer in (self._timer, self._reader_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()
        if self._phase is _Phase.LONG_BODY:
            self._restart()

    def on_response_complete(self) -> None:
        self.has_long_body = False
        super().on_response_complete()
        self._look()

    def let_in(self, *, has_long_body: bool) -> None:
        """A request of it was found to be from somebody who may call."""
        self.is_known = True
        self.has_long_body = has_long_body
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader_timer is not None:
            self._reader_timer.cancel()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._close_in_time()

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(msg)
        self._close_in_time()

    def _close_in_time(self) -> None:
        """A connection whose other end receives nothing would never be closed."""
        self._stop()
        self._timer = self.loop.call_later(CLOSING_SECONDS, self.transport.abort)

    def _look(self) -> None:
        """Its time begins anew with each phase, not with each byte."""
        if self.transport.is_closing():
            return
        phase = self._now_in()
        if phase is not self._phase:
            self._phase = phase
            self.idle_since = time.monotonic() if phase is _Phase.IDLE else None
            self._restart()

    def _now_in(self) -> _Phase:
        sending = self.conn.their_state
        if sending is h11.SEND_BODY:
            return _Phase.LONG_BODY if self.has_long_body else _Phase.BODY
        if sending is not h11.IDLE:
            return _Phase.ANSWER
        has_begun = bool(self.conn.trailing_data[0])
        is_idle = self.timeout_keep_alive_task is not None and not has_begun  # an empty line ends that, too
        return _Phase.IDLE if is_idle else _Phase.HEADERS

    def _restart(self) -> None:
        self._stop()
        if seconds := _SECONDS.get(self._phase):
            self._timer = self.loop.call_later(seconds, self._expire)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        """Where we do not read, because what has come is not written yet, the sender is not to blame."""
        if self._phase is _Phase.LONG_BODY and self.flow.read_paused:
            self._restart()
        else:
            self.transport.abort()


def protocol(connections: HttpConnections) -> type[HttpConnection]:
    """For uvicorn: the class of the connections that are counted there."""

    class Counted(HttpConnection):
        others = connections

    return Counted
