"""Stops a task when the export is lost that it works on, as `asyncio.timeout` does."""

import asyncio
from contextlib import suppress

from cloudmanager.client.errors import InvalidSetup


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
                await asyncio.sleep(0)
        is_only_ours = self._task.uncancel() <= self._cancelling_before
        return is_only_ours and isinstance(error, asyncio.CancelledError)
