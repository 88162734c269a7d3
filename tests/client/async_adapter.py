"""The blocking client with the interface of the asynchronous one, so that each test runs with both."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any

from cloudmanager.client import CloudManager, ExportedDisk


class AsyncAdapter:
    """CloudManager with the interface of AsyncCloudManager: each call blocks the event loop."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._manager = CloudManager(*arguments, **options)

    def __repr__(self) -> str:
        return repr(self._manager)

    def export(self, *arguments: Any, **options: Any) -> "_Entered":
        return _Entered(self._manager.export(*arguments, **options))

    async def __aenter__(self) -> "AsyncAdapter":
        self._manager.__enter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        self._manager.__exit__(*raised)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any] | AsyncIterator[Any]]:
        method = getattr(self._manager, name)
        lists = {"exports", "disks", "attachments", "providers", "nodes", "audit"}

        def iterate(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
            return _iterated(method(*arguments, **options))

        async def call(*arguments: Any, **options: Any) -> Any:
            return method(*arguments, **options)

        return iterate if name in lists else call


class _Entered:
    def __init__(self, disk: ExportedDisk) -> None:
        self._disk = disk

    async def __aenter__(self) -> ExportedDisk:
        return self._disk.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disk.__exit__(kind, error, trace)


async def _iterated(items: Iterator[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item
