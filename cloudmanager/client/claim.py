"""A claim that is kept: when to look at it and to renew it, and whether it is lost. Decides, and sends nothing."""

from collections.abc import Iterator

from cloudmanager.client.calls import look_request, read_export, renew_request
from cloudmanager.client.errors import ClientError, ExportLost, ExportNotFound, ExportOver, LostReason
from cloudmanager.client.exchange import Reply, Request, Step, now
from cloudmanager.client.model import Export, ExportState
from cloudmanager.client.patience import FIRST_PAUSE_SECONDS, asked_pause, pauses
from cloudmanager.client.problems import error_of, error_of_export

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
        life_seconds: float | None = None,
    ) -> None:
        """When it was asked for first, and when the request was sent that was answered, by the boot clock.

        An earlier attempt may have made the export, so it is renewed as early as if that were so. `life_seconds` is
        how long it lives from that request on, if that is not since it was made.
        """
        self.export = export
        self.lost: ExportLost | None = None
        self._ttl_seconds = ttl_seconds
        self._life_seconds = life_seconds or (export.expires_at - export.created_at).total_seconds()
        self._look_seconds = look_seconds
        self._ends_at = sent_at + self._life_seconds
        self._renew_at = asked_at + self._life_seconds / 3
        self._look_at = now() + look_seconds
        self._pauses: Iterator[float] | None = None
        self._problem: ClientError | None = None

    def next_step(self) -> Step:
        """A look or a renewal, and how long to wait for it."""
        due = min(self._renew_at, self._look_at)
        after = max(0.0, due - now() if self._pauses is None else self._pause())
        is_renewal = now() + after >= self._renew_at
        return Step(self._renewal() if is_renewal else self.look(), after)

    def look(self) -> Request:
        return look_request(self.export.id, answer_seconds=ANSWER_SECONDS)

    def heard(self, step: Step, reply: Reply) -> None:
        """Takes in the answer to a step."""
        if reply.status not in step.request.expected:
            self._refused(error_of(reply))
            return
        try:
            self.saw(read_export(reply, self.export.id))
        except ClientError as error:
            self.missed(error)
            return
        self._pauses = None
        self._look_at = now() + self._look_seconds
        if step.request.method == "POST":
            self._ends_at = reply.sent_at + self._life_seconds
            self._renew_at = reply.sent_at + self._life_seconds / 3

    def saw(self, export: Export) -> None:
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
