"""Resource ids of Azure Resource Manager: case is kept as given and never matters."""

import re
from dataclasses import dataclass
from typing import Self

_COMPUTE = "Microsoft.Compute"
_RESOURCE = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.Compute/(?P<kind>[^/]+)/(?P<name>[^/]+)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ResourceId:
    """One Microsoft.Compute resource. `kind` is the collection: virtualMachines, disks, snapshots."""

    subscription: str
    group: str
    kind: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for anything that is not the id of a compute resource."""
        match = _RESOURCE.fullmatch(text)
        return cls(**match.groupdict()) if match else None

    @property
    def key(self) -> str:
        """What two spellings of one resource have in common."""
        return str(self).casefold()

    @property
    def group_id(self) -> str:
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"

    @property
    def type(self) -> str:
        return f"{_COMPUTE}/{self.kind}"

    @property
    def shouted(self) -> str:
        """With the resource group in capitals, as Azure returns the ids of disks."""
        return str(self).replace(f"/resourceGroups/{self.group}/", f"/resourceGroups/{self.group.upper()}/")

    def __str__(self) -> str:
        return f"{self.group_id}/providers/{self.type}/{self.name}"
