"""A valid request, as the resources of the emulated Compute Engine take it."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cloudmanager.testing.cloud.faults import Fault
from cloudmanager.testing.cloud.gce.errors import invalid, refusal
from cloudmanager.testing.cloud.gce.state import Cloud


@dataclass(frozen=True)
class RequestContext:
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


Item = TypeVar("Item")
_LARGEST = 500


def page(items: Sequence[Item], context: RequestContext) -> tuple[Sequence[Item], str | None]:
    """The items that `maxResults` and `pageToken` ask for, or fewer, and the token of the next page."""
    query = context.parameters
    size = int(query.get("maxResults", _LARGEST))
    if size > _LARGEST:
        raise invalid("maxResults", str(size), f"Value must be between 0 and {_LARGEST}, inclusive.")
    start = _position(query["pageToken"]) if query.get("pageToken") else 0
    end = start + min(size or _LARGEST, context.largest_page or _LARGEST)
    return items[start:end], _token(end) if end < len(items) else None


def _token(position: int) -> str:
    return base64.urlsafe_b64encode(f"after:{position}".encode()).decode()


def _position(token: str) -> int:
    try:
        word, _, position = base64.urlsafe_b64decode(token).decode().partition(":")
        if word == "after":
            return int(position)
    except (ValueError, binascii.Error):
        pass
    raise refusal(400, "invalid", f"Invalid value for field 'pageToken': '{token}'. The page token is invalid.")
