"""A request for one of EC2's actions."""

from dataclasses import dataclass
from typing import TypeVar

from cloudmanager.testing.cloud.ec2.schema import Parameters
from cloudmanager.testing.cloud.ec2.selection import page
from cloudmanager.testing.cloud.ec2.state import Scope, State
from cloudmanager.testing.cloud.faults import Fault

Paged = TypeVar("Paged")


@dataclass(frozen=True)
class RequestContext:
    """One request whose parameters the schema accepted."""

    scope: Scope
    parameters: Parameters
    seen: State
    """What a read is answered with: the truth, or an older state."""
    fault: Fault | None = None
    largest_page: int | None = None

    def page(self, items: list[Paged], ids: str) -> tuple[list[Paged], str | None]:
        return page(items, self.parameters, ids, self.largest_page)
