"""This machine as Azure describes it: what Azure says of the machine is the truth, not what a call returns."""

from cloudmanager.core.errors import CloudUnavailable
from cloudmanager.providers._waiting import Deadline, TimedOut
from cloudmanager.providers.azure.api import Compute
from cloudmanager.providers.azure.facts import MachineFacts
from cloudmanager.providers.azure.resource_id import ResourceId

AGREEMENT_SECONDS = 30.0
"""How long what Azure says of a machine may lag behind an operation that has ended."""


class MachineView:
    """Looks at one machine; never changes it."""

    def __init__(self, compute: Compute, machine: ResourceId) -> None:
        self._compute = compute
        self._machine = machine

    def look(self) -> MachineFacts:
        """Raises MachineGone."""
        return self._compute.machine(self._machine)

    def settled(self, deadline: Deadline) -> MachineFacts:
        """The machine once no change is pending: a pending one is never reversed. Raises CloudUnavailable."""

        def look() -> MachineFacts | None:
            machine = self.look()
            return machine if machine.is_settled else None

        try:
            return deadline.wait_for(look)
        except TimedOut:
            raise self.busy(deadline) from None

    def busy(self, deadline: Deadline) -> CloudUnavailable:
        """The error of a wait for another change that took all the time."""
        return CloudUnavailable(
            f"For {deadline.seconds:g} s, another change to {self._machine.name} has not ended; Azure makes one at a "
            "time."
        )
