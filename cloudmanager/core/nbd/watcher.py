"""Notices the end of a process at once, without polling."""

import logging
import os
import select
import threading
from collections.abc import Callable

from cloudmanager.confined.process import is_readable

log = logging.getLogger(__name__)


class Watcher:
    """One thread that waits for any number of pidfds."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="nbd-watcher", daemon=True)
        self._thread.start()

    def watch(self, pidfd: int, on_end: Callable[[], None]) -> None:
        """Calls `on_end` once, from the watcher's thread; at once when the process has ended already."""
        with self._lock:
            self._callbacks[pidfd] = on_end
            self._epoll.register(pidfd, select.EPOLLIN)

    def forget(self, pidfd: int) -> None:
        """The call may be under way already. Must come before the descriptor is closed."""
        with self._lock:
            self._take(pidfd)

    def close(self) -> None:
        """Waits for a call that is under way, unless it is this one."""
        os.eventfd_write(self._wake, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._epoll.close()
        os.close(self._wake)

    def _run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                if fd == self._wake:
                    return
                self._ended(fd)

    def _ended(self, pidfd: int) -> None:
        with self._lock:
            # Another process may have been given the number since the event was read.
            on_end = self._take(pidfd) if pidfd in self._callbacks and is_readable(pidfd, 0) else None
        if on_end is None:
            return
        try:
            on_end()
        except Exception:
            log.exception("the end of a server was not handled")

    def _take(self, pidfd: int) -> Callable[[], None] | None:
        on_end = self._callbacks.pop(pidfd, None)
        if on_end is not None:
            self._epoll.unregister(pidfd)
        return on_end
