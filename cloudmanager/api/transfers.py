"""Bytes of disks that go through the service: in threads of their own, so that nobody else waits for one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TypeVar

from starlette.requests import ClientDisconnect

from cloudmanager.api.errors import MalformedRequest
from cloudmanager.core.errors import InvalidContent, InvalidRequest, ShuttingDown, TransferFailed, TransferUnavailable
from cloudmanager.core.manager import Manager
from cloudmanager.core.nbd.transfer import Transfer, TransferStopped
from cloudmanager.transfer.digests import BLOCK_BYTES
from cloudmanager.transfer.extents import Extent
from cloudmanager.transfer.frames import BadFrame, Unpacker

Result = TypeVar("Result")

THREADS = 16
MOST_OF_ONE_EXPORT = 8
MOST = 64
"""Each may hold a few MiB of memory, and a connection of its export."""
IDLE_SECONDS = 60.0
RETRY_SECONDS = 5.0


class Transfers:
    """Used from the event loop."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._executor = ThreadPoolExecutor(THREADS, "transfer")
        self._running: Counter[str] = Counter()
        self._bounds: set[asyncio.Timeout] = set()
        self._is_stopping = False

    async def write(self, export_id: str, chunks: AsyncIterator[bytes]) -> int:
        """Writes the frames that the chunks are made of; the number of bytes, once the server has acknowledged them.

        Raises InvalidContent, and what `Manager.transfer` and the transfer raise. What it raises when the client
        leaves stops it.
        """
        async with self._transfer(export_id, is_writing=True) as (transfer, bound):
            unpacker = Unpacker()
            try:
                async for chunk in chunks:
                    for frame in unpacker.feed(chunk):
                        await self._run(partial(transfer.write, frame))
                    self._extend(bound)
                unpacker.end()
            except BadFrame as error:
                raise InvalidContent(str(error)) from error
            except ClientDisconnect:
                raise MalformedRequest("The body was cut off.") from None  # the client is gone
            return transfer.written_bytes

    async def digests(self, export_id: str, offset: int, length: int) -> bytes:
        """Raises InvalidRequest, and what `Manager.transfer` and the transfer raise."""
        async with self._transfer(export_id, is_writing=False) as (transfer, _bound):
            if offset % BLOCK_BYTES or offset >= transfer.size_bytes:
                raise InvalidRequest(f"offset must be a multiple of {BLOCK_BYTES} and less than {transfer.size_bytes}.")
            extent = Extent(offset, min(length, transfer.size_bytes - offset))
            return await self._run(partial(transfer.digests, extent))

    def stop(self) -> None:
        """Ends all of them soon. Their clients receive ShuttingDown."""
        self._is_stopping = True
        for bound in self._bounds:
            if not bound.expired():
                bound.reschedule(0)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def _transfer(self, export_id: str, *, is_writing: bool) -> AsyncIterator[tuple[Transfer, asyncio.Timeout]]:
        with self._counted(export_id):
            try:
                async with asyncio.timeout(IDLE_SECONDS) as bound:
                    self._bounds.add(bound)
                    transfer = await self._connected(export_id, is_writing=is_writing)
                    try:
                        yield transfer, bound
                    finally:
                        await asyncio.shield(self._run(partial(transfer.__exit__, None, None, None)))
            except (TimeoutError, TransferStopped):
                raise self._end() from None
            finally:
                self._bounds.discard(bound)

    async def _connected(self, export_id: str, *, is_writing: bool) -> Transfer:
        connecting = asyncio.ensure_future(self._run(partial(self._manager.transfer, export_id, is_writing=is_writing)))
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close)
            raise

    @contextmanager
    def _counted(self, export_id: str) -> Iterator[None]:
        if self._is_stopping:
            raise self._end()
        if self._running[export_id] >= MOST_OF_ONE_EXPORT or self._running.total() >= MOST:
            raise TransferUnavailable(
                f"The service moves at most {MOST_OF_ONE_EXPORT} parts of a disk, and {MOST} in all, at the same time.",
                retriable=True,
                retry_after=RETRY_SECONDS,
            )
        self._running[export_id] += 1
        try:
            yield
        finally:
            self._running -= Counter([export_id])

    def _extend(self, bound: asyncio.Timeout) -> None:
        if not (self._is_stopping or bound.expired()):
            bound.reschedule(asyncio.get_running_loop().time() + IDLE_SECONDS)

    def _end(self) -> ShuttingDown | TransferFailed:
        if self._is_stopping:
            return ShuttingDown("The service was stopped before this was done.")
        return TransferFailed(f"Nothing moved for {IDLE_SECONDS:g} s. Send it again.", retriable=True)

    async def _run(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _close(connecting: "asyncio.Future[Transfer]") -> None:
    """One that came when nobody waited any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().__exit__(None, None, None)
