"""The signals that end a process from outside, as an exception, so that what was begun is undone in order."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from cloudmanager.client.errors import InvalidSetup

_OF_A_TERMINAL = (signal.SIGHUP, signal.SIGQUIT)
"""It was closed, or its connection was lost; Ctrl-\\."""


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """While the block runs, SIGTERM raises SystemExit with the shell's exit code for it, 143, in the main thread.

    So do SIGHUP and SIGQUIT, unless the program ignores them (as nohup has it) or handles them itself. A process that
    does not handle such a signal ends on the spot: no `finally` and no `with` is left in order. A second SIGTERM or
    SIGHUP does not cut the clean-up short; a second SIGQUIT does.

    Raises InvalidSetup outside the main thread, and in a program that handles SIGTERM itself: its handler stays, and
    has to end the block.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InvalidSetup("SIGTERM can be handled from the main thread only: use release_on_sigterm=True there.")
    before = signal.getsignal(signal.SIGTERM)
    if before not in (signal.SIG_DFL, _unwind, _pass):
        raise InvalidSetup(
            "This program handles SIGTERM already, so release_on_sigterm=True would take its handler away: let that "
            "handler raise an exception in the main thread instead."
        )
    ours = [number for number in (signal.SIGTERM, *_OF_A_TERMINAL) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:  # the outermost block's: the inner ones leave the signals as they are
        signal.signal(number, _unwind)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


_IMPORTS = "<frozen importlib"
"""What the code of an import calls its file."""
_IMPORT_SECONDS = 0.01


def _unwind(number: int, frame: FrameType | None) -> None:
    if frame is not None and frame.f_code.co_filename.startswith(_IMPORTS):
        _send_later(number)
        return
    for other in (signal.SIGTERM, *_OF_A_TERMINAL):
        if signal.getsignal(other) is _unwind:
            signal.signal(other, signal.SIG_DFL if other is signal.SIGQUIT else _pass)
    raise SystemExit(128 + number)


def _send_later(number: int) -> None:
    """What is raised amid an import may be lost in a callback, with the lock of all imports taken for ever."""
    timer = threading.Timer(_IMPORT_SECONDS, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def _pass(number: int, frame: FrameType | None) -> None:
    """In the place of SIG_IGN, which programs that are started meanwhile would inherit: none could be ended then."""


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
