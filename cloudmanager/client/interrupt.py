"""Stops the main thread when the export is lost that it works on."""

import signal
import threading
import time
from contextlib import suppress

from cloudmanager.client.errors import InvalidSetup

ARRIVAL_SECONDS = 1.0
"""A signal that was sent arrives at once, even if the machine is busy."""


class MainThreadInterrupt:
    """Raises KeyboardInterrupt in the main thread, whatever it waits for: a read, a process."""

    def __init__(self) -> None:
        """Call it in the main thread. Raises InvalidSetup elsewhere, and if SIGINT does not raise KeyboardInterrupt."""
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            raise InvalidSetup(
                "interrupt=True stops the main thread by SIGINT, so it needs to be used there and with Python's own "
                "handler of SIGINT. Use on_lost instead, to stop what you have started."
            )
        self._main = threading.get_ident()
        self._lock = threading.Lock()
        self._is_armed = False
        self._is_due = False

    def arm(self) -> None:
        """From here on the main thread may be interrupted."""
        with self._lock:
            self._is_armed = True
            self._send()

    def fire(self) -> None:
        with self._lock:
            self._is_due = True
            self._send()

    def disarm(self, error: BaseException | None) -> bool:
        """Whether `error` is what it has raised. One that has not arrived yet is caught here."""
        with self._lock:
            self._is_armed = False
        if not self._is_due:
            return False
        if not isinstance(error, KeyboardInterrupt):
            with suppress(KeyboardInterrupt):
                time.sleep(ARRIVAL_SECONDS)
        return isinstance(error, KeyboardInterrupt)

    def _send(self) -> None:
        if self._is_armed and self._is_due:
            signal.pthread_kill(self._main, signal.SIGINT)
