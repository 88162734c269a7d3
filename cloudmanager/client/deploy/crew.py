"""Threads that work beside each other until all is done, one fails, or the caller has had enough."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cloudmanager.client.deploy.errors import Cancelled

_TELL_SECONDS = 0.2


class Stopped(Exception):
    """Another thread has failed, or the caller wants no more."""


@dataclass
class Crew:
    """Runs functions in threads of their own."""

    cancelled: threading.Event
    """Set by the caller, from anywhere."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _errors: list[BaseException] = field(default_factory=list)
    _wakers: list[Callable[[], None]] = field(default_factory=list)

    def on_stop(self, wake: Callable[[], None]) -> None:
        """Called when the threads have to end early: it wakes those that wait for something else than `check`."""
        self._wakers.append(wake)

    def check(self) -> None:
        """Called by the threads. Raises Stopped."""
        if self._stop.is_set() or self.cancelled.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Raises Stopped, also while it waits."""
        self._stop.wait(seconds)
        self.check()

    def run(self, tasks: Iterable[Callable[[], None]], tell: Callable[[], None]) -> None:
        """Returns when all have returned; `tell` is called a few times in each second, and once when all is done.

        Raises the first error of a thread, what `tell` raises, Cancelled; no thread is left then.
        """
        threads = [threading.Thread(target=self._guarded, args=(task,), name="deploy", daemon=True) for task in tasks]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(_TELL_SECONDS)
                    if self.cancelled.is_set() or self._stop.is_set():
                        self._wake()
                    tell()
        except BaseException:
            self._stop.set()
            self._wake()
            raise
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self._errors:
            raise self._errors[0]
        if self.cancelled.is_set():
            raise Cancelled("The deployment was cancelled.")
        self._stop.clear()
        tell()

    def _wake(self) -> None:
        for wake in self._wakers:
            wake()

    def _guarded(self, task: Callable[[], None]) -> None:
        try:
            task()
        except Stopped:
            pass
        except BaseException as error:
            self._errors.append(error)
            self._stop.set()
