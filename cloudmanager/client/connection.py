"""Connections to a service, open while somebody uses them: for threads and for coroutines."""

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from cloudmanager.client.exchange import Call, TransportFailed
from cloudmanager.client.service import Service

if TYPE_CHECKING:
    from cloudmanager.client.transport import AsyncTransport, Transport

Result = TypeVar("Result")


class ServiceConnection:
    """Opened by the first who enters it and closed by the last who leaves. Thread-safe.

    A process that was forked has one of its own: two processes must not talk on the same.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self._lock = threading.Lock()
        self._users = 0
        self._transport: Transport | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        with self._lock:
            self._users += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._transport is not None:
                self._transport.close()
                self._transport = None

    def run(self, call: Call[Result], pause: Callable[[float], object] = time.sleep) -> Result:
        """Does what a call asks for. What `pause` raises ends it."""
        with self:
            try:
                step = next(call)
                while True:
                    if step.after > 0:
                        pause(step.after)
                    try:
                        reply = self._open().send(step.request)
                    except TransportFailed as failure:
                        step = call.throw(failure)
                    else:
                        step = call.send(reply)
            except StopIteration as end:
                result: Result = end.value
                return result
            finally:
                call.close()

    def _open(self) -> "Transport":
        from cloudmanager.client.transport import Transport  # noqa: PLC0415 - httpx is most of the time of an import

        with self._lock:
            if self._transport is None or self._pid != os.getpid():
                self._transport, self._pid = Transport(self.service), os.getpid()
            return self._transport


class AsyncServiceConnection:
    """Opened by the first who enters it and closed by the last who leaves. For one event loop at a time."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._users = 0
        self._transport: AsyncTransport | None = None

    async def __aenter__(self) -> Self:
        self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if self._users == 0 and self._transport is not None:
            transport, self._transport = self._transport, None
            await transport.close()

    async def run(self, call: Call[Result]) -> Result:
        """Does what a call asks for."""
        import asyncio  # noqa: PLC0415 - threads need none, and it takes a while to import

        async with self:
            try:
                step = next(call)
                while True:
                    if step.after > 0:
                        await asyncio.sleep(step.after)
                    try:
                        reply = await self._open().send(step.request)
                    except TransportFailed as failure:
                        step = call.throw(failure)
                    else:
                        step = call.send(reply)
            except StopIteration as end:
                result: Result = end.value
                return result
            finally:
                call.close()

    def _open(self) -> "AsyncTransport":
        from cloudmanager.client.transport import AsyncTransport  # noqa: PLC0415 - loaded when the first request is sent

        if self._transport is None:
            self._transport = AsyncTransport(self.service)
        return self._transport
