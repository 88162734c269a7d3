"""Trying again: what is safe to send twice, for a bounded time, with growing pauses."""

import random
from collections.abc import Iterator

from cloudmanager.client.errors import ClientError, ServiceError, UnexpectedAnswer, Unreachable
from cloudmanager.client.exchange import Call, Reply, Request, Step, TransportFailed, now
from cloudmanager.client.problems import error_of, is_foreign, is_problem

PATIENCE_SECONDS = 60.0
"""Longer than a restart of the service takes."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


def pauses() -> Iterator[float]:
    """Twice as long each time, with up to a half taken off, so that clients do not come back all at once."""
    longest = FIRST_PAUSE_SECONDS
    while True:
        yield longest * random.uniform(0.5, 1)  # noqa: S311 - spreads load, keeps no secret
        longest = min(2 * longest, LONGEST_PAUSE_SECONDS)


def patiently(request: Request, patience_seconds: float, after: float = 0.0) -> Call[Reply]:
    """The first answer that is what the request expects. Raises ServiceError, Unreachable, UnexpectedAnswer.

    The last error is raised when the next attempt would begin later than `patience_seconds` from now.
    """
    give_up_at = now() + patience_seconds
    longer = pauses()
    while True:
        try:
            reply = yield Step(request, after)
        except TransportFailed as failure:
            error: ClientError = unreachable(failure)
            may_repeat = (request.is_repeatable or not failure.was_sent) and not failure.is_unfit
        else:
            if reply.status in request.expected and not is_problem(reply) and not is_foreign(reply):
                return reply
            error = error_of(reply)
            may_repeat = request.is_repeatable and isinstance(error, ServiceError) and error.retriable
        after = max(next(longer), asked_pause(error))
        if not may_repeat or now() + after > give_up_at:
            raise error


def unreachable(failure: TransportFailed) -> Unreachable | UnexpectedAnswer:
    if failure.is_unfit:
        return UnexpectedAnswer(f"{failure.detail}. Does the address lead to a cloudmanager?")
    return Unreachable(f"{failure.detail}. Is the service running, and is this its address?")


def asked_pause(error: ClientError | None) -> float:
    """Seconds that the service asks to wait."""
    return error.retry_after or 0.0 if isinstance(error, ServiceError) else 0.0
