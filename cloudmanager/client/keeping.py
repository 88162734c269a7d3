"""The life of an export that a client uses: asked for, awaited, kept, given back."""

import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cloudmanager.client import calls
from cloudmanager.client.calls import Wanted
from cloudmanager.client.claim import ANSWER_SECONDS, Claim
from cloudmanager.client.errors import ClientError, ExportLost, ExportNotFound, LostReason, NotReadyInTime
from cloudmanager.client.exchange import Call, Reply, Step, TransportFailed, now
from cloudmanager.client.model import Export, ExportState
from cloudmanager.client.patience import patiently, unreachable
from cloudmanager.client.problems import error_of_export

WATCHED_WAIT_SECONDS = 2
"""How long one request waits while somebody looks at the progress."""
SHORTEST_ROUND_SECONDS = 0.2
"""A service that is being stopped answers at once whoever waits."""
RELEASE_PATIENCE_SECONDS = 10.0
"""An export that cannot be released ends by itself; nobody should wait long for that."""

OnProgress = Callable[[Export], object]
OnLost = Callable[[ExportLost], object]
log = logging.getLogger(__name__)


def begin(wanted: Wanted, patience_seconds: float, look_seconds: float) -> Call[Claim]:
    """Asks for an export."""
    asked_at = now()
    reply = yield from patiently(wanted.request(), patience_seconds)
    return Claim(calls.read_wanted(reply, wanted), wanted.ttl_seconds, asked_at, reply.sent_at, look_seconds)


def take_over(wanted: Wanted, patience_seconds: float, look_seconds: float) -> Call[Claim]:
    """Asks for an export that an earlier process may have had, and lets it live anew. Raises ExportOver."""
    claim = yield from begin(wanted, patience_seconds, look_seconds)
    asked_at = now()
    request = calls.renew_request(claim.export.id, wanted.ttl_seconds)
    reply = yield from patiently(request, patience_seconds)
    export = calls.read_export(reply)
    return Claim(export, wanted.ttl_seconds, asked_at, reply.sent_at, look_seconds, _life_left(export, reply))


def _life_left(export: Export, reply: Reply) -> float:
    """Seconds, by the service's own clock where its answer tells it."""
    try:
        at = parsedate_to_datetime(reply.headers.get("date", ""))
    except ValueError:
        at = datetime.now(UTC)
    return (export.expires_at - at).total_seconds()


def until_ready(
    export: Export, patience_seconds: float, timeout: float | None = None, on_progress: OnProgress | None = None
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
        reply = yield from patiently(calls.look_request(export.id, seconds), patience_seconds, after)
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
            claim.heard(step, reply)
    return claim.lost


def give_back(claim: Claim, patience_seconds: float, *, look: bool) -> Call[bool]:
    """Releases the export. With `look`, it is seen first whether it has been there until now.

    Returns whether it is over: one that could not be released ends by itself.
    """
    if look and claim.lost is None:
        try:
            reply = yield Step(claim.look())
        except TransportFailed as failure:
            claim.missed(unreachable(failure))
        else:
            claim.heard(Step(claim.look()), reply)
    if claim.lost and claim.lost.reason is not LostReason.EXPIRED:
        return True
    patience_seconds = 0 if claim.lost else min(patience_seconds, RELEASE_PATIENCE_SECONDS)
    try:
        yield from patiently(calls.release_request(claim.export.id, ANSWER_SECONDS), patience_seconds)
    except ExportNotFound:
        pass
    except ClientError as error:
        log.warning(
            "export %s of %s was not released; it ends by itself: %s", claim.export.id, claim.export.disk, error.detail
        )
        return False
    return True


def disown(wanted: Wanted) -> Call[None]:
    """Releases what a request may have made whose answer was not awaited: its key tells which export that is."""
    export = calls.read_export((yield from patiently(wanted.request(ANSWER_SECONDS), 0)))
    yield from patiently(calls.release_request(export.id, ANSWER_SECONDS), 0)


def _not_ready(export: Export) -> NotReadyInTime:
    why = f" So far: {export.error.detail}" if export.error else ""
    return NotReadyInTime(
        f"Export {export.id} of {export.disk} is still {export.state}.{why} Wait longer, or look at the service.",
        export_id=export.id,
    )
