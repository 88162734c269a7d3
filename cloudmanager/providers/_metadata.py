"""A cloud's metadata server: where a machine asks who it is."""

import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from cloudmanager.core.errors import ConfigurationError

_LONGEST_ANSWER = 1024 * 1024


class MetadataServer:
    """Speaks plain HTTP to a link-local address, and never through a proxy, whose own machine would answer."""

    def __init__(self, url: str, *, timeout: float, advice: str) -> None:
        """`timeout` in seconds bounds each request; `advice` ends each error: which settings make it needless."""
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._advice = advice

    def ask(self, path: str, headers: Mapping[str, str], method: str = "GET") -> str:
        """The answer's text. Raises ConfigurationError that says what was tried, and what happened.

        It is retriable where it looks like an outage: no answer, or the server's own error. That there is no such
        server, or that it refuses, does not change by itself.
        """
        url = f"{self._url}/{path.lstrip('/')}"
        try:
            status, body = self._request(method, url, headers)
        except TimeoutError as error:
            raise self._failure(f"gave no answer within {self._timeout:g} s", url, retriable=True) from error
        except (OSError, HTTPException, ValueError) as error:
            is_passing = not isinstance(error, socket.gaierror | ValueError)
            raise self._failure(f"could not be reached ({type(error).__name__})", url, retriable=is_passing) from error
        if status != 200 or len(body) > _LONGEST_ANSWER:
            raise self._failure(f"answered with HTTP status {status}", url, retriable=status == 429 or status >= 500)
        return body.decode("utf-8", "replace")

    def _request(self, method: str, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        parts = urlsplit(url)
        connection = HTTPConnection(parts.hostname or "", parts.port or 80, timeout=self._timeout)
        try:
            connection.request(method, f"{parts.path}?{parts.query}".rstrip("?"), headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read(_LONGEST_ANSWER + 1)
        finally:
            connection.close()

    def _failure(self, what: str, url: str, *, retriable: bool) -> ConfigurationError:
        return ConfigurationError(f"The metadata server {what} at {url}. {self._advice}", retriable=retriable)
