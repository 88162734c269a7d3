"""The core's façade for coroutines: its calls run in threads, waiting for an export holds none."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, ParamSpec, TypeVar

from cloudmanager.api.transfers import Transfers
from cloudmanager.core.claiming import ClaimRequest
from cloudmanager.core.errors import ShuttingDown
from cloudmanager.core.manager import Manager
from cloudmanager.core.model import Export, ExportState

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 64
"""Calls at a time. Most take a millisecond; one that asks a cloud takes seconds, so there are more than cores."""


class AsyncManager:
    """Runs what a route asks of the façade."""

    def __init__(self, manager: Manager, on_ready: Callable[[float], object]) -> None:
        """`on_ready` receives the seconds from an export's claim to ready, if a request waited for it."""
        self.manager = manager
        self.transfers = Transfers(manager)
        self._on_ready = on_ready
        self._executor = ThreadPoolExecutor(THREADS, "http")
        self.waiters: set[asyncio.Future[Export]] = set()
        """Requests that wait for an export now."""
        self._is_stopping = False
        self._calls: set[asyncio.Future[Any]] = set()
        self._has_given_up = False

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`call(*args, **kwargs)` in a thread. Raises ShuttingDown when the service ends before the call does."""
        called = asyncio.get_running_loop().run_in_executor(self._executor, lambda: call(*args, **kwargs))
        self._calls.add(called)
        try:
            return await called
        except asyncio.CancelledError:
            if not self._has_given_up:
                raise
            raise ShuttingDown("The service was stopped before this was done. Look again when it runs.") from None
        finally:
            self._calls.discard(called)

    async def get(self, seconds: float | None, export_id: str) -> Export:
        """The export once it is ready or over, or as it is after `seconds` or at the service's end.

        Without `seconds`, as it is at once.
        """
        if not seconds:
            return await self.run(self.manager.get, export_id)

        def follow() -> tuple[Export, Future[Export]]:  # one trip to a thread instead of two
            return self.manager.get(export_id), self.manager.follow(export_id)

        return await self._followed(seconds, follow)

    async def claim(self, seconds: float | None, request: ClaimRequest) -> Export:
        """`Manager.claim`, and then as `get`."""
        if not seconds:
            export, future = await self.run(self.manager.claim, request)
            future.cancel()
            return export
        return await self._followed(seconds, partial(self.manager.claim, request))

    async def _followed(self, seconds: float, follow: "Callable[[], tuple[Export, Future[Export]]]") -> Export:
        before, future = await self.run(follow)
        export = await self._wait(before, future, seconds)
        if export.state is ExportState.READY and before.state is not ExportState.READY:
            self._on_ready((datetime.now(UTC) - before.created_at).total_seconds())
        return export

    async def _wait(self, export: Export, future: Future[Export], seconds: float) -> Export:
        waiter = asyncio.wrap_future(future)
        self.waiters.add(waiter)
        try:
            await asyncio.wait({waiter}, timeout=0 if self._is_stopping else seconds)
            if waiter.done() and not waiter.cancelled():
                return waiter.result()
        finally:
            self.waiters.discard(waiter)
            waiter.cancel()
        return await self.run(self.manager.get, export.id)

    def stop_waiting(self) -> None:
        """Answers everybody who waits, now. Call it from the event loop."""
        self._is_stopping = True
        self.transfers.stop()
        for waiter in list(self.waiters):
            waiter.cancel()

    def give_up(self) -> None:
        """Answers everybody whose call is not done, now. Call it from the event loop."""
        self._has_given_up = True
        for called in list(self._calls):
            called.cancel()

    def close(self) -> None:
        self.transfers.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
