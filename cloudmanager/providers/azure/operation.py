"""Waits for an operation that Azure has accepted: bounded, and in the calling thread."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from azure.core.exceptions import HttpResponseError
from azure.core.pipeline import PipelineResponse
from azure.core.polling import PollingMethod
from azure.core.rest import HttpResponse

from cloudmanager.core.backoff import report_wait
from cloudmanager.core.errors import CloudUnavailable, Throttled
from cloudmanager.providers.azure.errors import retry_after, translate

TOO_MANY = 429
_TRANSIENT = frozenset({408, 500, 502, 503, 504})
_FAILED = frozenset({"failed", "canceled"})
_FIRST_PAUSE_SECONDS = 0.1
_PAUSE_FACTOR = 3
"""Azure takes 45 looks at a machine's operations, then 15 a minute."""


class OperationRuns(Exception):
    """The bound was reached; the operation goes on."""


class Operation(PollingMethod[None]):
    """Pass it as `polling=`. `LROPoller.result()` then waits, and answers with nothing: look at the resource.

    The SDK's own polling has no bound, sleeps 30 seconds where Azure gives no advice, and gives an operation up when
    one look at it is throttled.
    """

    def __init__(
        self,
        *,
        timeout: float,
        longest_pause: float,
        look: Callable[[str, float], HttpResponse],
        on_accepted: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Both in seconds. A pause that Azure asks for may be longer than `longest_pause`.

        `look` gets a URL, within a number of seconds. `on_accepted` is called at once with the operation's path and
        query, by which its status is looked up later.
        """
        self._deadline = time.monotonic() + timeout
        self._longest_pause = longest_pause
        self._look = look
        self._on_accepted = on_accepted
        self._initial: PipelineResponse[Any, HttpResponse] | None = None

    def initialize(self, _client: Any, initial_response: Any, _: Callable[[Any], None]) -> None:
        self._initial = initial_response
        if url := self._url():
            self._on_accepted(_status_path(url))

    def finished(self) -> bool:
        """Yes, so that the SDK starts no thread: `resource` is where it waits."""
        return True

    def status(self) -> str:
        return "InProgress"

    def run(self) -> None:
        """Nothing: see `finished`."""

    def resource(self) -> None:
        """Raises HttpResponseError when the operation fails (status 200), OperationRuns at the bound."""
        url = self._url()
        if not url or self._initial is None:
            return
        has_status = "Azure-AsyncOperation" in self._initial.http_response.headers
        is_ended = _has_status_ended if has_status else _has_location_ended
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                answer = self._look(url, max(0.0, self._deadline - time.monotonic()))
            except (Throttled, CloudUnavailable) as error:
                report_wait(error)
                self._sleep(error.retry_after or pause)
            else:
                if answer.status_code in _TRANSIENT:
                    report_wait(translate(HttpResponseError(response=answer)))
                elif is_ended(answer):
                    return
                self._sleep(retry_after(answer.headers) or pause)
            pause = min(_PAUSE_FACTOR * pause, self._longest_pause)

    def _url(self) -> str:
        """Where the state of the operation is; empty where it has ended already."""
        headers = self._initial.http_response.headers if self._initial else {}
        return headers.get("Azure-AsyncOperation") or headers.get("Location") or ""

    def _sleep(self, seconds: float) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise OperationRuns
        time.sleep(min(seconds, left))


def _status_path(url: str) -> str:
    """Of the status document, without what signs the link for a while (`t`, `c`, `s`, `h`)."""
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name in ("p", "api-version")]
    return f"{parts.path}?{urlencode(query)}"


def _has_status_ended(answer: HttpResponse) -> bool:
    """By the document that `Azure-AsyncOperation` leads to."""
    if answer.status_code != 200:
        raise HttpResponseError(response=answer)
    status = str(answer.json().get("status", "")).casefold()
    if status in _FAILED:
        raise HttpResponseError(response=answer)
    return status == "succeeded"


def _has_location_ended(answer: HttpResponse) -> bool:
    """By the status of what `Location` leads to."""
    if answer.status_code not in (200, 201, 202, 204):
        raise HttpResponseError(response=answer)
    return answer.status_code != 202
