"""A valid request, as the resources of the emulated Compute Engine take it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudmanager.testing.cloud.faults import Fault
from cloudmanager.testing.cloud.gce.state import Cloud


@dataclass(frozen=True)
class Asked:
    parameters: Mapping[str, str]
    """Of the path and the query."""
    body: Mapping[str, Any]
    seen: Cloud
    """What reads are answered from: the present state, or the one that a stale read shows."""
    fault: Fault | None
    largest_page: int | None = None
    """See `Emulator`."""

    @property
    def project(self) -> str:
        return self.parameters["project"]

    @property
    def scope(self) -> str:
        """`zones/Z`, `regions/R` or `global`."""
        if "zone" in self.parameters:
            return f"zones/{self.parameters['zone']}"
        return f"regions/{self.parameters['region']}" if "region" in self.parameters else "global"

    def path(self, collection: str, parameter: str) -> str:
        """Of the resource that the path names."""
        return f"projects/{self.project}/{self.scope}/{collection}/{self.parameters[parameter]}"
