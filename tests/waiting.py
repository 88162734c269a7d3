"""Waiting for what nothing announces."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

BOUND = 40.0
"""Seconds. Enough on a busy machine; a test that waits so long has failed."""
_PAUSE = 0.01

Found = TypeVar("Found")


def eventually(
    look: Callable[[], Found | None], otherwise: str = "it did not happen in time", seconds: float = BOUND
) -> Found:
    """What `look` finds, once it finds something."""
    waiting = threading.Event()  # unlike time.sleep, it is what no test replaces
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, otherwise
        waiting.wait(_PAUSE)
    return found
