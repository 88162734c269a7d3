"""What proves that a disk was attached by us.

Azure does not say who attached a disk. It gives each change of a machine an operation of its own, whose answer proves
it, and keeps when a disk changed its owner last (`LastOwnershipUpdateTime`): at the end of the operation that attached
it. The request takes no id of ours and, in azure-mgmt-compute 39.0, no If-Match. So one without an answer, because the
connection broke or this process was killed, is known by the time alone: it was made at a known moment of Azure's clock,
just after a look that showed the machine idle and without the disk.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cloudmanager.core.model import CONFIRMED
from cloudmanager.providers.azure.api import Compute
from cloudmanager.providers.azure.resource_id import ResourceId

ROUNDING = timedelta(seconds=1)
"""The Date header tells times to the second."""


@dataclass(frozen=True)
class Asked:
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


class Proofs:
    """Judges what plans have kept."""

    def __init__(self, compute: Compute, longest_request: timedelta) -> None:
        """`longest_request`: a request without an answer has been carried out by then, or never is."""
        self._compute = compute
        self._longest_request = longest_request

    def proves(self, proof: str, id: ResourceId) -> bool:
        """Whether it proves that the disk, which is attached as planned, was attached by the plan's request."""
        kind, _, rest = proof.partition(" ")
        match kind:
            case "operation":
                return self._was_attached_by(rest, id)
            case "asked":
                asked = datetime.fromisoformat(rest).astimezone(UTC)
                return self._changed_owner(id, asked, asked + self._longest_request)
            case _:
                return proof == CONFIRMED

    def _was_attached_by(self, operation: str, id: ResourceId) -> bool:
        outcome = self._compute.outcome(operation)
        return outcome is not None and outcome.is_success and self._changed_owner(id, outcome.started, outcome.ended)

    def _changed_owner(self, id: ResourceId, earliest: datetime, latest: datetime) -> bool:
        owned_since = self._compute.disk(id).owned_since
        return owned_since is not None and earliest - ROUNDING <= owned_since <= latest + ROUNDING
