"""Repeats calls that a cloud throttles or cannot serve: jittered pauses, Retry-After honoured, the last error kept."""

from collections.abc import Callable
from typing import TypeVar

import stamina

from cloudmanager.core.backoff import report_wait
from cloudmanager.core.errors import CloudUnavailable, Throttled

Answer = TypeVar("Answer")


def retrying(call: Callable[[], Answer], *, attempts: int, timeout: float, longest_pause: float = 10.0) -> Answer:
    """`call`, repeated while it raises Throttled or CloudUnavailable and a Retry-After fits into `timeout` seconds.

    After `attempts` or `timeout` the error itself is raised. Only for calls that may be repeated: reads, and mutations
    with a request id.
    """

    def pause_after(error: Exception) -> bool | float:
        if not isinstance(error, (Throttled, CloudUnavailable)) or not error.retriable:
            return False
        if error.retry_after is not None and error.retry_after > timeout:
            return False
        report_wait(error)
        return True if error.retry_after is None else error.retry_after

    for attempt in stamina.retry_context(
        on=pause_after, attempts=attempts, timeout=timeout, wait_initial=0.2, wait_max=longest_pause, wait_jitter=0.5
    ):
        with attempt:
            return call()
    raise AssertionError("stamina either returns or raises")
