"""What an emulated cloud was asked, in order: for tests that count calls, and for watching a provider work."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """One request that the cloud received."""

    operation: str
    target: str
    mutates: bool
    status: int
    """HTTP status of the answer; 0 when the connection was cut instead."""


class CallLog:
    """Thread-safe. What is done by hand in the emulator is not a call."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._watchers: list[Callable[[Call], None]] = []
        self._lock = threading.Lock()

    def add(self, call: Call) -> None:
        """Notes a call that was carried out and not answered yet."""
        with self._lock:
            self._calls.append(call)
            watchers = list(self._watchers)
        for watch in watchers:
            watch(call)

    def watch(self, watcher: Callable[[Call], None]) -> Callable[[], None]:
        """Calls `watcher` after each call was carried out and before it is answered; returns what ends that."""
        with self._lock:
            self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def clear(self) -> None:
        with self._lock:
            self._calls.clear()

    def mutations(self) -> list[Call]:
        return [call for call in self if call.mutates]

    def __iter__(self) -> Iterator[Call]:
        with self._lock:
            return iter(list(self._calls))

    def __len__(self) -> int:
        return len(self._calls)
