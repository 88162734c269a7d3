"""The signals that end a process from outside, as an exception, so that what was begun is undone in order."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


def _unwind(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as the signal module calls it
    for other in (signal.SIGTERM, *_OF_A_TERMINAL):
        if signal.getsignal(other) is _unwind:
            signal.signal(other, signal.SIG_DFL if other is signal.SIGQUIT else _pass)
    raise SystemExit(128 + number)


def _pass(number: int, frame: FrameType | None) -> None:
    """In the place of SIG_IGN, which programs that are started meanwhile would inherit: none could be ended then."""
