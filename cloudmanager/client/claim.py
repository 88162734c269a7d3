"""A claim that is kept: when to look at it and to renew it, and whether it is lost. Decides, and sends nothing."""

import logging
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cloudmanager.client import calls
from cloudmanager.client.calls import ClaimRequest, look_request, read_export, renew_request
from cloudmanager.client.errors import ClientError, ExportLost, ExportNotFound, ExportOver, LostReason, NotReadyInTime
from cloudmanager.client.exchange import (
    FIRST_PAUSE_SECONDS,
    Call,
    Reply,
    Request,
    ScheduledRequest,
    TransportFailed,
    asked_pause,
    error_of,
    error_of_export,
    now,
    pauses,
    unreachable,
    with_retries,
)
from cloudmanager.client.model import Export, ExportState

LOOK_SECONDS = 10.0
"""How often it is asked whether the export is still there."""
ANSWER_SECONDS = 10.0
"""A service that is up answers at once."""


class Claim:
    """One export, as last seen.

    It counts as lost when its life is over by this machine's clock, counted from when its last renewal was *sent*: that
    is never later than the service ends it. `lost` is set once and stays.
    """

    def __init__(
        self,
        export: Export,
        ttl_seconds: int | None,
        asked_at: float,
        sent_at: float,
        look_seconds: float = LOOK_SECONDS,
        lifetime_seconds: float | None = None,
    ) -> None:
        """When it was asked for first, and when the request was sent that was answered, by the boot clock.

        An earlier attempt may have made the export, so it is renewed as early as if that were so. `lifetime_seconds` is
        how long it lives from that request on, if that is not since it was made.
        """
        self.export = export
        self.lost: ExportLost | None = None
        self._ttl_seconds = ttl_seconds
        self._lifetime_seconds = lifetime_seconds or (export.expires_at - export.created_at).total_seconds()
        self._look_seconds = look_seconds
        self._ends_at = sent_at + self._lifetime_seconds
        self._renew_at = asked_at + self._lifetime_seconds / 3
        self._look_at = now() + look_seconds
        self._pauses: Iterator[float] | None = None
        self._problem: ClientError | None = None

    def next_step(self) -> ScheduledRequest:
        """A look or a renewal, and how long to wait for it."""
        due = min(self._renew_at, self._look_at)
        after = max(0.0, due - now() if self._pauses is None else self._pause())
        is_renewal = now() + after >= self._renew_at
        return ScheduledRequest(self._renewal() if is_renewal else self.look(), after)

    def look(self) -> Request:
        return look_request(self.export.id, answer_seconds=ANSWER_SECONDS)

    def process_reply(self, step: ScheduledRequest, reply: Reply) -> None:
        """Takes in the answer to a step."""
        if reply.status not in step.request.expected:
            self._refused(error_of(reply))
            return
        try:
            self.update(read_export(reply, self.export.id))
        except ClientError as error:
            self.missed(error)
            return
        self._pauses = None
        self._look_at = now() + self._look_seconds
        if step.request.method == "POST":
            self._ends_at = reply.sent_at + self._lifetime_seconds
            self._renew_at = reply.sent_at + self._lifetime_seconds / 3

    def update(self, export: Export) -> None:
        """Takes in what the service says of the export."""
        self.export = export
        if not export.state.is_live:
            self._lose(self._end_of(export))

    def missed(self, error: ClientError) -> None:
        """Takes in that an attempt was in vain. That is no loss while the claim still has life."""
        self._problem = error
        self._pauses = self._pauses or pauses()
        self.expire()

    def expire(self) -> None:
        """Notices that its life is over."""
        if now() < self._ends_at:
            return
        why = f": {self._problem.detail}" if self._problem else "."
        self._lose(self._loss(LostReason.EXPIRED, f"could not be renewed in time{why}", self._problem))

    def _pause(self) -> float:
        """After a failure: longer each time and as the service asks, but so that there are attempts to the end."""
        wanted = max(next(self._pauses or pauses()), asked_pause(self._problem))
        left = self._ends_at - now()
        return min(wanted, left, max(left / 2, FIRST_PAUSE_SECONDS))

    def _renewal(self) -> Request:
        return renew_request(self.export.id, self._ttl_seconds, ANSWER_SECONDS)

    def _refused(self, error: ClientError) -> None:
        if isinstance(error, ExportNotFound):
            self._lose(self._loss(LostReason.FORGOTTEN, "is not known to the service any more.", error))
        elif isinstance(error, ExportOver):
            self._renew_at, self._look_at = self._ends_at, now()  # its state says why
        else:
            self.missed(error)

    def _end_of(self, export: Export) -> ExportLost:
        if export.state is ExportState.FAILED:
            error = error_of_export(export)
            return self._loss(LostReason.FAILED, f"failed: {error.detail}", error)
        if now() >= self._ends_at:
            return self._loss(LostReason.EXPIRED, "could not be renewed in time.", self._problem)
        return self._loss(LostReason.RELEASED, "was ended by somebody else; the service's audit says who.")

    def _loss(self, reason: LostReason, what: str, problem: ClientError | None = None) -> ExportLost:
        named = f"Export {self.export.id} of {self.export.disk}"
        return ExportLost(f"{named} {what}", reason=reason, export_id=self.export.id, problem=problem)

    def _lose(self, lost: ExportLost) -> None:
        if self.lost is None:
            self.lost = lost


WATCHED_WAIT_SECONDS = 2
"""How long one request waits while somebody looks at the progress."""
SHORTEST_ROUND_SECONDS = 0.2
"""A service that is being stopped answers at once whoever waits."""
RELEASE_RETRY_SECONDS = 10.0
"""An export that cannot be released ends by itself; nobody should wait long for that."""

OnProgress = Callable[[Export], object]
OnLost = Callable[[ExportLost], object]
log = logging.getLogger(__name__)


def begin(wanted: ClaimRequest, retry_seconds: float, look_seconds: float) -> Call[Claim]:
    """Asks for an export."""
    asked_at = now()
    reply = yield from with_retries(wanted.request(), retry_seconds)
    return Claim(calls.read_wanted(reply, wanted), wanted.ttl_seconds, asked_at, reply.sent_at, look_seconds)


def take_over(wanted: ClaimRequest, retry_seconds: float, look_seconds: float) -> Call[Claim]:
    """Asks for an export that an earlier process may have had, and lets it live anew. Raises ExportOver."""
    claim = yield from begin(wanted, retry_seconds, look_seconds)
    asked_at = now()
    request = calls.renew_request(claim.export.id, wanted.ttl_seconds)
    reply = yield from with_retries(request, retry_seconds)
    export = calls.read_export(reply)
    return Claim(export, wanted.ttl_seconds, asked_at, reply.sent_at, look_seconds, _lifetime_left(export, reply))


def _lifetime_left(export: Export, reply: Reply) -> float:
    """Seconds, by the service's own clock where its answer tells it."""
    try:
        at = parsedate_to_datetime(reply.headers.get("date", ""))
    except ValueError:
        at = datetime.now(UTC)
    return (export.expires_at - at).total_seconds()


def until_ready(
    export: Export, retry_seconds: float, timeout: float | None = None, on_progress: OnProgress | None = None
) -> Call[Export]:
    """The export once it is ready. Raises NotReadyInTime, and the error of an export that failed or was ended.

    `on_progress` sees every answer on the way, the last one too.
    """
    give_up_at = math.inf if timeout is None else now() + timeout
    longest = calls.LONGEST_WAIT_SECONDS // 10 if on_progress is None else WATCHED_WAIT_SECONDS
    after = 0.0
    while True:
        if on_progress is not None:
            on_progress(export)
        if export.state is ExportState.READY:
            return export
        if not export.state.is_live:
            raise error_of_export(export)
        began = now()
        if (left := give_up_at - began) <= 0:
            raise _not_ready(export)
        seconds = max(1, math.floor(min(longest, left)))
        reply = yield from with_retries(calls.look_request(export.id, seconds), retry_seconds, after)
        export = calls.read_export(reply, export.id)
        after = max(0.0, SHORTEST_ROUND_SECONDS - (now() - began))


def keep(claim: Claim) -> Call[ExportLost]:
    """Looks at the export and renews it until it is lost. Whoever drives this ends it earlier."""
    while claim.lost is None:
        step = claim.next_step()
        try:
            reply = yield step
        except TransportFailed as failure:
            claim.missed(unreachable(failure))
        else:
            claim.process_reply(step, reply)
    return claim.lost


def give_back(claim: Claim, retry_seconds: float, *, look: bool) -> Call[bool]:
    """Releases the export. With `look`, it is seen first whether it has been there until now.

    Returns whether it is over: one that could not be released ends by itself.
    """
    if look and claim.lost is None:
        try:
            reply = yield ScheduledRequest(claim.look())
        except TransportFailed as failure:
            claim.missed(unreachable(failure))
        else:
            claim.process_reply(ScheduledRequest(claim.look()), reply)
    if claim.lost and claim.lost.reason is not LostReason.EXPIRED:
        return True
    retry_seconds = 0 if claim.lost else min(retry_seconds, RELEASE_RETRY_SECONDS)
    try:
        yield from with_retries(calls.release_request(claim.export.id, ANSWER_SECONDS), retry_seconds)
    except ExportNotFound:
        pass
    except ClientError as error:
        log.warning(
            "export %s of %s was not released; it ends by itself: %s", claim.export.id, claim.export.disk, error.detail
        )
        return False
    return True


def disown(wanted: ClaimRequest) -> Call[None]:
    """Releases what a request may have made whose answer was not awaited: its key tells which export that is."""
    export = calls.read_export((yield from with_retries(wanted.request(ANSWER_SECONDS), 0)))
    yield from with_retries(calls.release_request(export.id, ANSWER_SECONDS), 0)


def _not_ready(export: Export) -> NotReadyInTime:
    why = f" So far: {export.error.detail}" if export.error else ""
    return NotReadyInTime(
        f"Export {export.id} of {export.disk} is still {export.state}.{why} Wait longer, or look at the service.",
        export_id=export.id,
    )
