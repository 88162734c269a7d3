"""This machine as Azure describes it: what Azure says of the machine is the truth, not what a call returns."""

from cloudmanager.core.errors import CloudUnavailable
from cloudmanager.providers._shared_look import SharedLook
from cloudmanager.providers._waiting import Deadline, TimedOut
from cloudmanager.providers.azure.api import Compute
from cloudmanager.providers.azure.facts import MachineFacts
from cloudmanager.providers.azure.resource_id import ResourceId

AGREEMENT_SECONDS = 30.0
"""How long what Azure says of a machine may lag behind an operation that has ended."""


class MachineView:
    """Looks at one machine; never changes it. Azure allows few looks: plan, confirm, locate and drift share them."""

    def __init__(self, compute: Compute, machine: ResourceId, look_seconds: float) -> None:
        """`look_seconds`: how old a look may be that nobody has a reason to doubt."""
        self._machine = machine
        self.look_seconds = look_seconds
        self.recent_seconds = look_seconds / 30
        """Of looks that several share which do the same thing at about the same time."""
        self._look = SharedLook(lambda: compute.machine(machine))

    def look(self, max_age: float = 0.0) -> MachineFacts:
        """As it was at most `max_age` seconds ago. Raises MachineGone."""
        return self._look.look(max_age)

    def latest(self, max_age: float) -> MachineFacts | None:
        """What was seen at most `max_age` seconds ago, if anything; makes no call."""
        return self._look.latest(max_age)

    def outdate(self) -> None:
        """A change has ended: looks of before do not show it."""
        self._look.outdate()

    def settled(self, deadline: Deadline, max_age: float = 0.0) -> MachineFacts:
        """The machine once no change is pending: a pending one is never reversed. Raises CloudUnavailable."""
        ages = [max_age]

        def look() -> MachineFacts | None:
            machine = self.look(ages.pop() if ages else 0.0)
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
