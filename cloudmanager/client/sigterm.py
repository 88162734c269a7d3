"""SIGTERM as an exception, so that what was begun is undone in order."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cloudmanager.client.errors import InvalidSetup


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """While the block runs, SIGTERM raises SystemExit with the shell's exit code for it, 143, in the main thread.

    A process that does not handle SIGTERM ends on the spot: no `finally` and no `with` is left in order. A second
    SIGTERM does not cut the clean-up short. Raises InvalidSetup outside the main thread, and in a program that handles
    SIGTERM itself: its handler stays, and has to end the block.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InvalidSetup("SIGTERM can be handled from the main thread only: use release_on_sigterm=True there.")
    before = signal.getsignal(signal.SIGTERM)
    if before not in (signal.SIG_DFL, _unwind):
        raise InvalidSetup(
            "This program handles SIGTERM already, so release_on_sigterm=True would take its handler away: let that "
            "handler raise an exception in the main thread instead."
        )
    signal.signal(signal.SIGTERM, _unwind)
    try:
        yield
    finally:
        if before != _unwind:  # the outermost block: the inner ones leave the signal as it is
            signal.signal(signal.SIGTERM, before)


def _unwind(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as the signal module calls it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)
