"""Sends requests with httpx, blocking or not. The one place that knows it."""

import ssl
from typing import Any

import httpx

from cloudmanager.client import network
from cloudmanager.client.exchange import Reply, Request, TransportFailed, now
from cloudmanager.client.service import Service

CONNECT_SECONDS = 5.0
LONGEST_ANSWER_BYTES = 16 * 1024 * 1024
"""Five hundred exports with long notes are a tenth of it."""
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class Transport:
    """Connections to a service, for threads."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._proxy = _proxy(service)
        trust, proxy, path = _trust(service), _for_httpx(self._proxy), service.socket_path
        transport = httpx.HTTPTransport(uds=path, verify=trust, proxy=proxy, trust_env=False)
        self._client = httpx.Client(**_setup(service), transport=transport)

    def send(self, request: Request) -> Reply:
        """Raises TransportFailed."""
        sent_at = now()
        try:
            with self._client.stream(**_arguments(request)) as response:
                answer = _Answer(response, request, sent_at)
                for chunk in response.iter_raw():
                    answer.take(chunk)
        except httpx.HTTPError as error:
            raise _failure(self._service, self._proxy, request, error) from error
        return answer.reply(self._proxy)

    def close(self) -> None:
        self._client.close()


class AsyncTransport:
    """Connections to a service, for coroutines of one event loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._proxy = _proxy(service)
        trust, proxy, path = _trust(service), _for_httpx(self._proxy), service.socket_path
        transport = httpx.AsyncHTTPTransport(uds=path, verify=trust, proxy=proxy, trust_env=False)
        self._client = httpx.AsyncClient(**_setup(service), transport=transport)

    async def send(self, request: Request) -> Reply:
        """Raises TransportFailed."""
        sent_at = now()
        try:
            async with self._client.stream(**_arguments(request)) as response:
                answer = _Answer(response, request, sent_at)
                async for chunk in response.aiter_raw():
                    answer.take(chunk)
        except httpx.HTTPError as error:
            raise _failure(self._service, self._proxy, request, error) from error
        return answer.reply(self._proxy)

    async def close(self) -> None:
        await self._client.aclose()


class _Answer:
    """An answer while it comes: bounded, and as it was sent. Packed ones, which may be bombs, were not asked for."""

    def __init__(self, response: httpx.Response, request: Request, sent_at: float) -> None:
        """Raises TransportFailed, as `take` does."""
        self._response = response
        self._what = f"to {request.method} {request.path}"
        self._sent_at = sent_at
        self._give_up_at = now() + request.answer_seconds
        self._body = bytearray()
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise _unfit(f"The answer {self._what} is packed ({encoding[:40]!a}), which nobody has asked for")

    def take(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > LONGEST_ANSWER_BYTES:
            raise _unfit(f"The answer {self._what} is longer than {LONGEST_ANSWER_BYTES // 1024**2} MiB")
        if now() > self._give_up_at:
            raise TransportFailed(f"The answer {self._what} came too slowly to be waited for", was_sent=True)

    def reply(self, proxy: network.Proxy | None) -> Reply:
        headers = {name.lower(): value for name, value in self._response.headers.items()}
        body = bytes(self._body)
        return Reply(self._response.status_code, headers, body, self._sent_at, proxy.name if proxy else "")


def _setup(service: Service) -> dict[str, Any]:
    headers = {**service.headers, "Accept-Encoding": "identity"}
    return {"base_url": service.base_url, "headers": headers, "trust_env": False}


def _arguments(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.path,
        "params": request.query or None,  # httpx takes an empty list for an order to drop the address's own
        "json": request.body,
        "headers": request.headers,
        "timeout": httpx.Timeout(request.answer_seconds, connect=CONNECT_SECONDS),
    }


def _unfit(detail: str) -> TransportFailed:
    return TransportFailed(detail, was_sent=True, is_unfit=True)


def _failure(
    service: Service, proxy: network.Proxy | None, request: Request, error: httpx.HTTPError
) -> TransportFailed:
    why = str(error) or type(error).__name__
    through = f" through the proxy {proxy.name} that the environment names" if proxy else ""
    return TransportFailed(
        f"{service.url} gave no answer to {request.method} {request.path}{through} ({why})",
        was_sent=not isinstance(error, _NEVER_SENT),
    )


def _trust(service: Service) -> ssl.SSLContext:
    """Raises InvalidSetup. Reading the certificates takes longer than a request, so only where they are needed."""
    if service.base_url.startswith("https:"):
        return network.tls_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _proxy(service: Service) -> network.Proxy | None:
    """Raises InvalidSetup."""
    return None if service.socket_path else network.proxy_for(service.base_url)


def _for_httpx(proxy: network.Proxy | None) -> httpx.Proxy | None:
    if proxy is None:
        return None
    headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
    return httpx.Proxy(proxy.name, headers=headers)
