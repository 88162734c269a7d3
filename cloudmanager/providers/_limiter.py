"""Paces the calls of one provider: a token bucket with back-off for each kind of call, fed by the cloud's answers.

No limit is assumed. Where a cloud says how many calls remain (Azure), the bucket has so many tokens, and refills at the
rate that the cloud publishes. Where a cloud refuses a call, no call of that kind is made until its Retry-After, or a
pause that doubles with each refusal, is over; then one call tries, and while it waits for its answer, no other. Once
calls succeed again they are spaced, and the spacing shrinks with every success.
"""

import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from cloudmanager.core.backoff import report_wait
from cloudmanager.core.errors import CloudManagerError, CloudUnavailable, Throttled
from cloudmanager.providers._retrying import retrying

Answer = TypeVar("Answer")
_MOST_IN_FLIGHT = 8
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
_FIRST_SPACING_SECONDS = 0.1
_LONGEST_SPACING_SECONDS = 2.0
_SPACING_FACTOR = 0.8
_SMALLEST_SPACING_SECONDS = 0.01


class Limiter:
    """The buckets of one provider instance, by the kind of call. Thread-safe."""

    def __init__(
        self,
        *,
        attempts: int,
        timeout: float,
        refills: Mapping[str, float] | None = None,
        blocking: Collection[str] = (),
    ) -> None:
        """`attempts` and `timeout` (seconds) bound each call with its repetitions and the waits for them.

        `refills`: the published tokens a second of the kinds of calls whose remaining number the cloud reports.
        `blocking`: kinds of calls that the cloud answers when something has happened; any number may be in flight.
        """
        self._attempts = attempts
        self._timeout = timeout
        refills = refills or {}
        self._buckets: defaultdict[str, _Bucket] = defaultdict(_Bucket)
        self._buckets.update({kind: _Bucket(refill) for kind, refill in refills.items()})
        self._buckets.update({kind: _Bucket(most_in_flight=sys.maxsize) for kind in blocking})

    def read(self, kind: str, call: Callable[[], Answer], *, timeout: float | None = None) -> Answer:
        """A call that may be repeated, also where its answer was lost. Raises what the last try raised."""
        timeout = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        return retrying(
            lambda: self._paced(kind, call, max(0.0, deadline - time.monotonic())),
            attempts=self._attempts,
            timeout=timeout,
        )

    def change(self, kind: str, call: Callable[[], Answer], *, timeout: float | None = None) -> Answer:
        """A call that is made once. Raises Throttled, without the call, where it would have to wait too long."""
        return self._paced(kind, call, self._timeout if timeout is None else timeout)

    def remaining(self, kind: str, tokens: int) -> None:
        """The cloud reports how many calls of a kind remain. Call it while the call is in flight."""
        self._buckets[kind].set_level(tokens)

    def wait(self, kind: str) -> float:
        """For how many seconds a call of that kind would have to wait at present."""
        return self._buckets[kind].wait()

    def level(self, kind: str) -> float:
        """How many calls of that kind could be made at once; infinite where the cloud has not said."""
        return self._buckets[kind].level()

    def _paced(self, kind: str, call: Callable[[], Answer], timeout: float) -> Answer:
        bucket = self._buckets[kind]
        with bucket.token(timeout) as began:
            try:
                answer = call()
            except Throttled as error:
                bucket.refused(error, began)
                raise
            except CloudUnavailable:
                raise  # says nothing of the rate
            except CloudManagerError:
                bucket.answered()
                raise
            bucket.answered()
            return answer


class _Bucket:
    """One kind of call."""

    def __init__(self, refill: float = 0.0, most_in_flight: int = _MOST_IN_FLIGHT) -> None:
        """`refill`: tokens a second, used once the cloud has reported a level."""
        self._refill = refill
        self._most_in_flight = most_in_flight
        self._level: float | None = None
        self._level_at = 0.0
        self._spacing = 0.0
        self._next_at = 0.0
        """When the next call may be made, on the monotonic clock."""
        self._refusals = 0
        """In a row."""
        self._refused_at = 0.0
        self._error: Throttled | None = None
        self._in_flight = 0
        self._changed = threading.Condition()

    def wait(self) -> float:
        with self._changed:
            return self._wait(time.monotonic())

    def level(self) -> float:
        with self._changed:
            return self._level_now(time.monotonic())

    @contextmanager
    def token(self, timeout: float) -> Iterator[float]:
        """Waits for a token, and has it in flight within. Raises Throttled when it takes longer than `timeout`.

        Yields when it got it.
        """
        self._take(time.monotonic() + timeout)
        try:
            yield time.monotonic()
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def refused(self, error: Throttled, began: float) -> None:
        """`began`: calls that were in flight together are refused together, and count once."""
        with self._changed:
            now = time.monotonic()
            self._error = error
            if self._refusals and began < self._refused_at:
                self._next_at = max(self._next_at, now + (error.retry_after or 0.0))
                return
            pause = error.retry_after
            if pause is None:
                longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**self._refusals)
                pause = longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads calls, guards nothing
            self._refusals += 1
            self._refused_at = now
            if self._level is not None:
                self._level, self._level_at = 1 - pause * self._refill, now  # one when the pause is over
            self._spacing = min(_LONGEST_SPACING_SECONDS, max(_FIRST_SPACING_SECONDS, 2 * self._spacing))
            self._next_at = max(self._next_at, now + pause)
            self._changed.notify_all()

    def answered(self) -> None:
        with self._changed:
            self._refusals = 0
            self._spacing *= _SPACING_FACTOR
            if self._spacing < _SMALLEST_SPACING_SECONDS:
                self._spacing = 0.0
            self._changed.notify_all()

    def set_level(self, tokens: int) -> None:
        """Those that the cloud has not counted yet are taken off: the others that are in flight."""
        with self._changed:
            self._level = float(max(0, tokens - max(0, self._in_flight - 1)))
            self._level_at = time.monotonic()
            self._changed.notify_all()

    def _take(self, deadline: float) -> None:
        is_reported = False
        with self._changed:
            while True:
                now = time.monotonic()
                wait = self._wait(now)
                if wait <= 0 and self._in_flight < self._most():
                    break
                if now + wait > deadline or now >= deadline:
                    raise self._too_long(wait)
                if self._error is not None and self._refusals and not is_reported:
                    is_reported = True
                    report_wait(self._error)
                self._changed.wait(min(wait or deadline - now, deadline - now))
            self._in_flight += 1
            self._next_at = max(self._next_at, now) + self._spacing if self._spacing else self._next_at
            if self._level is not None:
                self._level, self._level_at = self._level_now(now) - 1, now

    def _most(self) -> int:
        return 1 if self._refusals else self._most_in_flight

    def _wait(self, now: float) -> float:
        """Seconds; for the answers of those in flight is waited besides."""
        wait = max(0.0, self._next_at - now)
        level = self._level_now(now)
        if self._refill and level < 1:
            wait = max(wait, (1 - level) / self._refill)
        return wait

    def _level_now(self, now: float) -> float:
        return float("inf") if self._level is None else self._level + (now - self._level_at) * self._refill

    def _too_long(self, wait: float) -> Throttled:
        """As the cloud has refused it last, with the time that is left."""
        last = self._error
        if last is not None and self._refusals:
            return Throttled(last.detail, cloud_code=last.cloud_code, retry_after=wait or last.retry_after)
        return Throttled(
            "The cloud limits how often this may be asked, and all calls of the present are used.",
            retry_after=wait or None,
        )
