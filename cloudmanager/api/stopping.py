"""The end of the service: a signal asks for it, and it comes within a bound, whatever hangs."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ORDERLY_SHARE = 0.9
"""The part of the bound that an orderly shutdown may take. The rest is for threads to notice that time is over."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
log = logging.getLogger(__name__)


class Stop:
    """Handles SIGTERM, SIGINT and SIGHUP (unless nohup ignores it) in the main thread.

    The first one begins an orderly end, and the process ends `seconds` later in any case: as by a crash, which the
    next start can cope with. The second one has the kernel end it at once, even while Python is busy; but SIGHUP comes
    more than once when a terminal is lost.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._asked_at: float | None = None
        self._begin: Callable[[], None] | None = None

    def remaining(self) -> float:
        """Seconds that an orderly end may still take."""
        asked_at = time.monotonic() if self._asked_at is None else self._asked_at
        return max(0.0, asked_at + self._seconds * ORDERLY_SHARE - time.monotonic())

    def begin_with(self, begin: Callable[[], None]) -> None:
        """`begin` is called in a thread of its own when it is asked for. Until then KeyboardInterrupt is raised."""
        self._begin = begin

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        is_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        asking = [number for number in _SIGNALS if number is not signal.SIGHUP or not is_nohup]
        before = {number: signal.signal(number, self._asked) for number in asking}
        try:
            yield
        finally:
            if self._asked_at is None:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _asked(self, _number: int, _frame: FrameType | None) -> None:
        self._asked_at = time.monotonic()
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN if number is signal.SIGHUP else signal.SIG_DFL)
        threading.Thread(target=self._expire, name="shutdown bound", daemon=True).start()
        if self._begin is None:
            raise KeyboardInterrupt
        threading.Thread(target=self._begin, name="shutdown", daemon=True).start()

    def _expire(self) -> None:
        """Also when only a thread that hangs is left, for which Python waits."""
        time.sleep(self._seconds)
        log.warning("not everything was done within %g s; the next start takes it up", self._seconds)
        logging.shutdown()
        os._exit(0)
