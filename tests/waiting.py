"""Waiting for what nothing announces."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

BOUND = 40.0
"""Seconds. Enough on a busy machine; a test that waits so long has failed."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.005, 0.04

Found = TypeVar("Found")


def eventually(
    look: Callable[[], Found | None], otherwise: str = "it did not happen in time", seconds: float = BOUND
) -> Found:
    """What `look` finds, once it finds something."""
    waiting = threading.Event()  # unlike time.sleep, it is what no test replaces
    began = time.monotonic()
    while not (found := look()):
        passed = time.monotonic() - began
        assert passed < seconds, otherwise
        waiting.wait(
            min(max(_SHORTEST_PAUSE, passed / 10), _LONGEST_PAUSE)
        )  # looking takes the time of what is awaited
    return found
