"""The proofs of attaches of this process, for other threads and later calls with the same plan."""

from collections import OrderedDict

from cloudmanager.core.model import AttachPlan

_MOST = 256


class LatestProofs:
    """By request id. A plan that was read before its proof was kept is completed here."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, str] = OrderedDict()

    def get(self, plan: AttachPlan) -> str:
        """The plan's own where nothing newer is known."""
        return self._known.get(plan.request_id, plan.proof)

    def keep(self, plan: AttachPlan, proof: str) -> None:
        """Callers serialise the work on a disk."""
        self._known[plan.request_id] = proof
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
