"""As `exported_disk`, for coroutines."""

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from cloudmanager.client import calls
from cloudmanager.client import claim as claiming
from cloudmanager.client.calls import ClaimRequest
from cloudmanager.client.claim import Claim
from cloudmanager.client.connection import AsyncServiceConnection
from cloudmanager.client.errors import ClientError, InvalidSetup
from cloudmanager.client.kept_disk import KeptDisk, Terms
from cloudmanager.client.model import Export
from cloudmanager.client.signals import unwinding_on_sigterm


class TaskInterrupt:
    """Cancels the task that made it."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise InvalidSetup("An export is used in a task: start it with asyncio.run or create_task.")
        self._task = task
        self._cancelling_before = task.cancelling()
        self._is_armed = True
        self._was_fired = False

    def fire(self) -> None:
        if self._is_armed:
            self._was_fired = True
            self._task.cancel("the export is lost")

    async def disarm(self, error: BaseException | None) -> bool:
        """Whether `error` is the cancellation that it has asked for, and nobody else. One under way is caught here."""
        self._is_armed = False
        if not self._was_fired:
            return False
        if not isinstance(error, asyncio.CancelledError):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # a cancellation is delivered at the next suspension
        is_only_ours = self._task.uncancel() <= self._cancelling_before
        return is_only_ours and isinstance(error, asyncio.CancelledError)


class AsyncExportedDisk(KeptDisk):
    """Entering asks for the export and waits until it is ready; a task renews it; leaving releases it.

    Entering raises ServiceError, NotReadyInTime, Unreachable. Leaving raises ExportLost if the export did not last
    until then; what the block itself raised is its cause. The ways to the bytes are ordinary context managers, which
    block the event loop for the moment in which they connect.
    """

    def __init__(self, connection: AsyncServiceConnection, wanted: ClaimRequest, terms: Terms) -> None:
        super().__init__(connection.service, wanted, terms)
        self._connection = connection
        self._undo = AsyncExitStack()
        self._interrupt: TaskInterrupt | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            if self._terms.release_on_sigterm:
                undo.enter_context(unwinding_on_sigterm())
            await undo.enter_async_context(self._connection)
            claim = await self._ask()
            self._begin(claim)
            keeper = asyncio.create_task(self._keep(claim), name=f"keep-{claim.export.id}")
            undo.push_async_exit(lambda _kind, error, _trace: self._give_back(claim, keeper, error))
            self._set_ready(await self._await(claim))
            self._undo = undo.pop_all()
        self._interrupt = TaskInterrupt() if self._terms.interrupt else None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_ours = self._interrupt is not None and await self._interrupt.disarm(error)
        await self._undo.__aexit__(kind, error, trace)
        cause = None if is_ours else error
        if lost := self._loss_to_raise(cause):
            raise lost from cause

    async def _ask(self) -> Claim:
        terms = self._terms
        takes_over = bool(self._wanted.key)
        wanted = self._wanted if takes_over else replace(self._wanted, key=calls.new_key())
        begin = claiming.take_over if takes_over else claiming.begin
        try:
            return await self._connection.run(begin(wanted, terms.retry_seconds, terms.look_seconds))
        except Exception:
            raise
        except BaseException:  # cancelled while nobody knows whether the service has made it
            with suppress(ClientError):
                await self._connection.run(claiming.disown(wanted))
            raise

    async def _await(self, claim: Claim) -> Export:
        terms = self._terms
        waiting = claiming.until_ready(claim.export, terms.retry_seconds, terms.ready_seconds, terms.on_progress)
        return await self._connection.run(waiting)

    async def _keep(self, claim: Claim) -> None:
        lost = await self._connection.run(claiming.keep(claim))
        if self._report_lost(lost) and self._interrupt is not None:
            self._interrupt.fire()

    async def _give_back(self, claim: Claim, keeper: asyncio.Task[None], error: BaseException | None) -> None:
        if not self._is_mine():
            return
        look = error is None or isinstance(error, Exception)
        keeper.cancel()
        await asyncio.wait({keeper})
        self._end(await self._connection.run(claiming.give_back(claim, self._terms.retry_seconds, look=look)))
