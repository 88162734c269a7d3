"""ASGI middleware that every request passes before its route: it counts, checks, and answers defects."""

import logging
import re
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloudmanager.api.errors import InternalError, MalformedRequest, RequestTooLarge
from cloudmanager.api.guard import CallerGuard
from cloudmanager.api.metrics import Metrics
from cloudmanager.api.problems import problem
from cloudmanager.core.errors import CloudManagerError
from cloudmanager.core.exhaustion import exhausted

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""A client may send any text as its method; each would add a time series that stays."""
MAX_BODY_BYTES = 64 * 1024
"""The largest request has a few short fields."""
_UNBOUNDED = re.compile(r"/v1/exports/[^/]+/content")
"""Its body is read in pieces, each of which is bounded."""
_TOO_LARGE = f"A request has at most {MAX_BODY_BYTES} bytes of body."
log = logging.getLogger(__name__)


class RequestCounter:
    """ASGI middleware: counts by the route's template, never by the path, which may be anything."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._requests = metrics.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._requests.labels(method, route, status).inc()


class Gate:
    """Refuses callers without the right, and requests that are too large or cannot be decoded."""

    def __init__(self, app: ASGIApp, guard: CallerGuard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._guard.check(scope["path"], headers)
            _check_readable(scope)
            is_bounded = _UNBOUNDED.fullmatch(scope["path"]) is None
            self._admit(scope, headers, has_long_body=not is_bounded)
            if is_bounded:
                _check_length(headers)
        except CloudManagerError as error:
            await problem(error)(scope, receive, send)
        else:
            await self._app(scope, _bounded(receive) if is_bounded else receive, send)

    def _admit(self, scope: Scope, headers: Headers, *, has_long_body: bool) -> None:
        state = scope.setdefault("state", {})
        state["is_known"] = self._guard.knows(headers)
        if state["is_known"] and "connection" in state:  # not in a test's client
            state["connection"].let_in(has_long_body=has_long_body)


def _check_readable(scope: Scope) -> None:
    """The server replaces bytes that are not UTF-8, so that another disk could be meant."""
    for part in (scope.get("raw_path") or b"", scope["query_string"]):
        try:
            text = unquote_to_bytes(part).decode()
        except UnicodeDecodeError:
            raise MalformedRequest("The address is not UTF-8. Percent-encode each byte of its UTF-8 form.") from None
        if any(char < " " or char == "\x7f" for char in text):
            raise MalformedRequest("The address contains control characters.")


def _check_length(headers: Headers) -> None:
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise RequestTooLarge(_TOO_LARGE)


def _bounded(receive: Receive) -> Receive:
    """For a body that comes in chunks, without its length."""
    received = 0

    async def receive_bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise HTTPException(413, _TOO_LARGE)  # what FastAPI lets through while it reads a body
        return message

    return receive_bounded


class DefectHandler:
    """Logs an unexpected exception with its traceback and answers without internals.

    Starlette's own handler raises the exception again, and the server then cuts the connection that the client would
    use for its next request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def watched(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if scope["type"] != "http" or has_started:
                raise  # the server cuts the connection: the client must not take half an answer for a whole one
            await problem(_known(error, f"{scope['method']} {scope['path']}"))(scope, receive, send)


def _known(error: Exception, request: str) -> CloudManagerError:
    if lacking := exhausted(error):
        log.warning("%s: %s", request, lacking.detail)
        return lacking
    log.exception("%s failed", request)
    return InternalError("This is a defect of cloudmanager; the log of the service has the details.")
