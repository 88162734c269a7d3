"""What proves that a disk was attached by us.

Azure does not say who attached a disk. It gives each change of a machine an operation of its own, whose answer proves
it, and keeps when a disk changed its owner last (`LastOwnershipUpdateTime`): at the end of the operation that attached
it. The request takes no id of ours and, in azure-mgmt-compute 39.0, no If-Match. So one without an answer, because the
connection broke or this process was killed, is known by the time alone: it was made at a known moment of Azure's clock,
just after a look that showed the machine idle and without the disk.

What is known of a request proves no more than that it was carried out: the disk may have been detached since, and
attached again by hand. So once it is confirmed, the time of that change of owner is what is kept. A machine that is
deallocated and started changes the owner too, before its kernel runs or a little later.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from cloudmanager.core.model import CONFIRMED
from cloudmanager.providers.azure.api import Compute
from cloudmanager.providers.azure.facts import DiskFacts

UNPROVED = "nothing proves that a request of this service did that."
_ROUNDING = timedelta(seconds=1)
"""The Date header gives times in whole seconds."""
_START = timedelta(minutes=5)
"""The operation that starts a machine ends after its kernel has been running for a while."""


@dataclass(frozen=True)
class Requested:
    """A request was made at this moment of Azure's clock, and its answer is not known."""

    at: datetime

    def __str__(self) -> str:
        return f"asked {self.at.isoformat()}"


@dataclass(frozen=True)
class Accepted:
    """Azure has answered with an operation."""

    operation: str
    """Where it is looked up: path and query."""

    def __str__(self) -> str:
        return f"operation {self.operation}"


@dataclass(frozen=True)
class Confirmed:
    """The disk has changed its owner at this moment of Azure's clock, by our request."""

    at: datetime

    @classmethod
    def after(cls, asked: datetime | None, owned_since: datetime | None) -> Self | None:
        """None where Azure does not say so yet: what it says of a disk may lag behind."""
        if asked is None or owned_since is None or owned_since < asked - _ROUNDING:
            return None
        return cls(owned_since)

    def __str__(self) -> str:
        return f"attached {self.at.isoformat()}"


class Proofs:
    """Judges what plans have kept."""

    def __init__(self, compute: Compute, longest_request: timedelta) -> None:
        """`longest_request`: a request without an answer has been carried out by then, or never is."""
        self._compute = compute
        self._longest_request = longest_request

    def proves(self, proof: str, found: DiskFacts, now: datetime | None) -> bool:
        """Whether it proves that the disk, which is attached as planned, was attached by the plan's request.

        `now` is Azure's clock, when the disk was seen to be attached.
        """
        kind, _, rest = proof.partition(" ")
        match kind:
            case "attached":
                return found.owned_since == datetime.fromisoformat(rest) or _by_start(found, now)
            case "operation":
                return self._was_attached_by(rest, found, now)
            case "asked":
                asked = datetime.fromisoformat(rest).astimezone(UTC)
                return _changed_owner(found, asked, asked + self._longest_request)
            case _:
                return proof == CONFIRMED

    def allows_detach(self, proof: str, found: DiskFacts, now: datetime | None) -> bool:
        """As `proves`, for what may have been attached long ago: an operation that Azure has forgotten was accepted."""
        kind, _, operation = proof.partition(" ")
        is_forgotten = kind == "operation" and self._compute.outcome(operation) is None
        return is_forgotten or self.proves(proof, found, now)

    def _was_attached_by(self, operation: str, found: DiskFacts, now: datetime | None) -> bool:
        outcome = self._compute.outcome(operation)
        if outcome is None or not outcome.is_success:
            return False
        return _changed_owner(found, outcome.started, outcome.ended) or _by_start(found, now)


def _changed_owner(found: DiskFacts, earliest: datetime, latest: datetime) -> bool:
    return found.owned_since is not None and earliest - _ROUNDING <= found.owned_since <= latest + _ROUNDING


def _by_start(found: DiskFacts, now: datetime | None) -> bool:
    """Whether a disk has changed its owner when this machine was started, or earlier."""
    if found.owned_since is None or now is None:
        return False
    return found.owned_since <= now - timedelta(seconds=_since_boot()) + _START


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
