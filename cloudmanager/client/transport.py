"""Sends requests with httpx, blocking or not. The one place that knows it."""

import ssl
from typing import Any

import httpx

from cloudmanager.client import network
from cloudmanager.client.exchange import Reply, Request, TransportFailed, now
from cloudmanager.client.service import Service

CONNECT_SECONDS = 5.0
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class Transport:
    """Connections to a service, for threads."""

    def __init__(self, service: Service) -> None:
        self._service = service
        trust, proxy, path = _trust(service), _proxy(service), service.socket_path
        transport = httpx.HTTPTransport(uds=path, verify=trust, proxy=proxy, trust_env=False)
        self._client = httpx.Client(
            base_url=service.base_url, headers=service.headers, transport=transport, trust_env=False
        )

    def send(self, request: Request) -> Reply:
        """Raises TransportFailed."""
        sent_at = now()
        try:
            return _reply(self._client.request(**_arguments(request)), sent_at)
        except httpx.HTTPError as error:
            raise _failure(self._service, request, error) from error

    def close(self) -> None:
        self._client.close()


class AsyncTransport:
    """Connections to a service, for coroutines of one event loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        trust, proxy, path = _trust(service), _proxy(service), service.socket_path
        transport = httpx.AsyncHTTPTransport(uds=path, verify=trust, proxy=proxy, trust_env=False)
        self._client = httpx.AsyncClient(
            base_url=service.base_url, headers=service.headers, transport=transport, trust_env=False
        )

    async def send(self, request: Request) -> Reply:
        """Raises TransportFailed."""
        sent_at = now()
        try:
            return _reply(await self._client.request(**_arguments(request)), sent_at)
        except httpx.HTTPError as error:
            raise _failure(self._service, request, error) from error

    async def close(self) -> None:
        await self._client.aclose()


def _arguments(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.path,
        "params": request.query or None,  # httpx takes an empty list for an order to drop the address's own
        "json": request.body,
        "headers": request.headers,
        "timeout": httpx.Timeout(request.answer_seconds, connect=CONNECT_SECONDS),
    }


def _reply(response: httpx.Response, sent_at: float) -> Reply:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, response.content, sent_at)


def _failure(service: Service, request: Request, error: httpx.HTTPError) -> TransportFailed:
    why = str(error) or type(error).__name__
    return TransportFailed(
        f"{service.url} gave no answer to {request.method} {request.path} ({why})",
        was_sent=not isinstance(error, _NEVER_SENT),
    )


def _trust(service: Service) -> ssl.SSLContext:
    """Raises InvalidSetup. Reading the certificates takes longer than a request, so only where they are needed."""
    if service.base_url.startswith("https:"):
        return network.tls_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _proxy(service: Service) -> httpx.Proxy | None:
    """Raises InvalidSetup."""
    proxy = None if service.socket_path else network.proxy_for(service.base_url)
    if proxy is None:
        return None
    headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
    return httpx.Proxy(proxy.name, headers=headers)
